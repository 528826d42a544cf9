"""Pipelines of diffusers: their only step is the generator's, for every convention of flows, and comes back as such."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import d2o
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import Epsilon, Flow
from d2o.errors import CheckpointError
from d2o.export import Exported, export, pipelines
from d2o.export.one_step import compare, compute_step, sample_one_step

from .test_export import DIT, LOW, UNET, make

diffusers: Any = pytest.importorskip("diffusers")

STRAIGHT = [Flow(), Flow(time_scale=1000.0), Flow(towards="image"), Flow(towards="image", time_scale=1000.0)]
CURVED = [
    Flow(path="trigonometric"),
    Flow(path="trigonometric", angular=True),
    Flow(path="trigonometric", towards="image", time_scale=1000.0),
]
LATER = [Flow(sigma_max=80.0), Flow(path="trigonometric", sigma_max=0.5), Flow(sigma_max=2.0**24)]
NETWORKS = {"unet": (UNET, 0, 3), "unet-classes": (UNET, 3, 3), "dit": (DIT, 3, 4)}


def write(network: str, family: Flow, path: Path) -> tuple[Denoiser, Exported]:
    spec, classes, channels = NETWORKS[network]
    denoiser = make(spec, family, classes, channels)
    return denoiser, export(denoiser, path, "diffusers")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("family", [*STRAIGHT, Flow(time_scale=999.5), *CURVED, *LATER], ids=str)
def test_flows_of_every_convention_are_stock(tmp_path, network, family):
    denoiser, made = write(network, family, tmp_path / "folder")
    is_own = network == "dit" and family in LATER  # DiTPipeline has no scheduler that begins there
    assert ("import d2o" in made.notes[1]) == is_own
    is_exact = network == "unet" and family in STRAIGHT[:3]  # the last one's time is 0, ours 1000 / 2^29
    assert made.error == 0 if is_exact else made.error < 2e-5
    if network == "dit" and family in CURVED:
        with pytest.raises(CheckpointError, match="betas"):  # of its single time, which leaves no signal
            d2o.load(tmp_path / "folder")
    else:
        again = d2o.load(tmp_path / "folder")
        assert compare(denoiser, lambda noise, label: sample_one_step(again, noise, label)) < 2e-5


def test_a_natural_scheduler_comes_back_as_its_flow(tmp_path):
    for family in (Flow(time_scale=1000.0), Flow(towards="image", time_scale=500.0)):
        denoiser, _ = write("unet", family, tmp_path / str(family.time_scale))
        again = d2o.load(tmp_path / str(family.time_scale))
        assert replace(again.preconditioning, last_time=None) == family  # type: ignore[type-var]
        noise = torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            for sigma in (0.1, 3.0):
                assert torch.equal(again(noise, sigma), denoiser(noise, sigma))


def test_without_the_scheduler_of_newer_diffusers_a_dit_is_our_own_model(tmp_path, monkeypatch):
    class Older:
        def __getattr__(self, name: str) -> Any:
            if name == "FlowMapEulerDiscreteScheduler":
                raise AttributeError(name)
            return getattr(diffusers, name)

    monkeypatch.setattr(pipelines, "import_diffusers", Older)
    _, made = write("dit", Flow(), tmp_path / "folder")
    assert made.error < 1e-5 and "0.39" in made.notes[1] and "import d2o.checkpoints.diffusers_model" in made.notes[1]


def test_a_unet_that_moves_its_input_is_our_own_model(tmp_path):
    denoiser = make({**UNET, "unet": {**UNET["unet"], "center_input_sample": True}}, Flow())
    made = export(denoiser, tmp_path / "folder", "diffusers")
    assert made.error < 1e-5 and "import d2o.checkpoints.diffusers_model" in made.notes[1]


@pytest.mark.parametrize("family", [*STRAIGHT[:1], *CURVED[:2], *LATER], ids=str)
def test_the_step_of_consistency_models_is_fitted_to_a_flows(family):
    """Their image of z is A z + B network(scale z), with what the first and last layers are multiplied by."""
    denoiser = make(UNET, family)
    ours, before = compute_step(denoiser), pipelines.copy_unet(denoiser)
    parts = pipelines.fit_flow(denoiser, pipelines.copy_unet(denoiser))
    parts.scheduler.set_timesteps(1)
    time, one = parts.scheduler.timesteps[0], torch.ones(1, 3, 1, 1)
    seen = parts.scheduler.scale_model_input(one, time)
    assert parts.scheduler.init_noise_sigma == 1 and time == 0
    identity = parts.scheduler.step(torch.zeros_like(one), time, one).prev_sample[0, 0].item()
    parts.scheduler.set_timesteps(1)
    output = parts.scheduler.step(one, time, one).prev_sample[0, 0].item() - identity
    first, last = (
        getattr(parts.network, name).weight.norm() / getattr(before, name).weight.norm()
        for name in ("conv_in", "conv_out")
    )
    assert identity == pytest.approx(ours["identity"], rel=1e-6, abs=1e-8)
    assert (seen[0, 0] * first).item() == pytest.approx(ours["scale"], rel=1e-6)
    assert (output * last).item() == pytest.approx(abs(ours["output"]), rel=1e-5)


def test_it_starts_where_the_model_starts():
    """The last beta of the schedule puts DDIM's only step at the denoiser's own noise level."""
    base: Any = make(UNET, Epsilon(sigma_max=LOW))
    for sigma in (1.5, 20.0, 79.0, 1e8):
        denoiser = Denoiser(base.backbone, replace(base.preconditioning, sigma_max=sigma), (3, 8, 8))
        scheduler, factor = pipelines.make_ddim_scheduler(denoiser)
        assert abs(scheduler.alphas_cumprod[-1].item() ** -0.5 / denoiser.sigma_max - 1) < 1e-6
        scheduler.set_timesteps(1)
        level = torch.tensor(denoiser.sigma_max)
        assert scheduler.timesteps.tolist() == [denoiser.preconditioning(level).noise.item()]
        assert factor == pytest.approx((1 - denoiser.sigma_max**-2) ** -0.5)
