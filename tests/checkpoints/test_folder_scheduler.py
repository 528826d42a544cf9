"""Schedulers of diffusers folders by their keys: our Euler steps are those of the stock loop, for every convention."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import d2o
from d2o.checkpoints import inspect
from d2o.cli.main import run
from d2o.diffusion.families import Epsilon, Flow, Velocity
from d2o.diffusion.noise import PURE_NOISE, noise_for
from d2o.diffusion.sampling import generate
from d2o.errors import CheckpointError

diffusers: Any = pytest.importorskip("diffusers")

FLOW, HEUN, LCM = (f"FlowMatch{name}Scheduler" for name in ("EulerDiscrete", "HeunDiscrete", "LCM"))
DPM = "DPMSolverMultistepScheduler"
SEEDS = range(3)
LABELS = torch.tensor([0, 1, 2])


def unet() -> Any:
    torch.manual_seed(0)
    sizes = {"sample_size": 8, "block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1}
    blocks = {
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    }
    return diffusers.UNet2DModel(**sizes, **blocks).eval()


def transformer() -> Any:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8, "patch_size": 2}
    return diffusers.DiTTransformer2DModel(**sizes, num_embeds_ada_norm=5, norm_eps=1e-5).eval()


def write(path: Path, network: Any, scheduler: Any) -> Path:
    part = "unet" if isinstance(network, diffusers.UNet2DModel) else "transformer"
    network.save_pretrained(path / part)
    scheduler.save_pretrained(path / "scheduler")
    (path / "model_index.json").write_text(json.dumps({part: ["diffusers", type(network).__name__]}))
    return path


@torch.no_grad()
def stock(network: Any, scheduler: Any, noise: Tensor, steps: int, **options: Any) -> Tensor:
    """Return the images of the loop that pipelines run."""
    scheduler.set_timesteps(steps, **options)
    x, labels = noise, {} if isinstance(network, diffusers.UNet2DModel) else {"class_labels": LABELS}
    for time in scheduler.timesteps:
        told = time if "class_labels" not in labels else time.expand(len(x))
        x = scheduler.step(network(x, timestep=told, **labels).sample, time, x).prev_sample
    return x


def ours(denoiser: d2o.Denoiser, steps: int) -> Tensor:
    label = LABELS.tolist() if denoiser.num_classes else None
    return torch.cat(list(generate(denoiser, SEEDS, steps=steps, condition=label, sampler="euler")))


def mu(tokens: int, short: float = 0.5, long: float = 1.15) -> float:
    return short + (long - short) * (tokens - 256) / (4096 - 256)


DYNAMIC = {"use_dynamic_shifting": True}
CONVENTIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # class, its settings, and those of the loop
    "shift 1": (FLOW, {}, {}),
    "shift 3": (FLOW, {"shift": 3.0}, {}),
    "shift below 1": (FLOW, {"shift": 0.3}, {}),
    "500 times": (FLOW, {"num_train_timesteps": 500, "shift": 2.0}, {}),
    "dynamic": (FLOW, DYNAMIC, {"mu": mu(16)}),
    "dynamic, with a constant beside it": (FLOW, {**DYNAMIC, "shift": 3.0}, {"mu": mu(16)}),
    "dynamic, other ends": (FLOW, {**DYNAMIC, "base_shift": 0.9, "max_shift": 4.0}, {"mu": mu(16, 0.9, 4.0)}),
    "dynamic, linear": (FLOW, {**DYNAMIC, "time_shift_type": "linear"}, {"mu": mu(16)}),
    "towards the image": (FLOW, {"invert_sigmas": True, "shift": 3.0}, {}),
    "LCM": (LCM, {"shift": 3.0}, {}),
}


@pytest.mark.parametrize("network", [unet, transformer])
@pytest.mark.parametrize(("name", "settings", "given"), CONVENTIONS.values(), ids=CONVENTIONS)
def test_euler_is_the_stock_loop(tmp_path, network, name, settings, given):
    model, scheduler = network(), getattr(diffusers, name)(**settings)
    denoiser = d2o.load(write(tmp_path, model, scheduler))
    noise = noise_for(SEEDS, denoiser.image_shape)
    # DiT's attention is computed in another order, and a time towards the image ends 2^-29 before its end.
    worst = 2e-6 if network is transformer or "invert_sigmas" in settings else 0.0
    assert (ours(denoiser, 1) - stock(model, scheduler, noise, 1, **given)).abs().max() <= worst
    if name != LCM:  # which draws noise between its steps
        for steps in (2, 4):
            wanted = stock(model, scheduler, noise, steps, **given)
            torch.testing.assert_close(ours(denoiser, steps), wanted, rtol=0, atol=5e-5)


def test_one_step_of_heuns_scheduler_is_ours(tmp_path):
    model, scheduler = unet(), getattr(diffusers, HEUN)(shift=3.0)
    denoiser = d2o.load(write(tmp_path, model, scheduler))
    noise = noise_for(SEEDS, (3, 8, 8))
    assert torch.equal(ours(denoiser, 1), stock(model, scheduler, noise, 1))


def test_without_clip_trailing_ddim_of_zero_snr_is_the_stock_loop(tmp_path):
    options = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    model, scheduler = unet(), diffusers.DDIMScheduler(**options, clip_sample=False)
    denoiser = d2o.load(write(tmp_path, model, scheduler))
    assert isinstance(denoiser.preconditioning, Velocity) and denoiser.sigma_max == PURE_NOISE
    for steps in (1, 4):
        wanted = stock(model, scheduler, noise_for(SEEDS, (3, 8, 8)), steps)
        torch.testing.assert_close(ours(denoiser, steps), wanted, rtol=0, atol=2e-5)


def test_trigflow_is_told_the_angle(tmp_path):
    model, scheduler = unet(), diffusers.SCMScheduler(sigma_data=1.0)
    denoiser = d2o.load(write(tmp_path, model, scheduler))
    assert denoiser.preconditioning == Flow(path="trigonometric", angular=True)
    scheduler.set_timesteps(1, intermediate_timesteps=None)
    noise, time = noise_for(SEEDS, (3, 8, 8)), scheduler.timesteps[0]
    with torch.no_grad():
        wanted = scheduler.step(model(noise, time).sample, time, noise).pred_original_sample
    torch.testing.assert_close(ours(denoiser, 1), wanted, rtol=0, atol=5e-5)  # it takes 1.5708 for half of pi


@pytest.mark.parametrize("name", [DPM, "UniPCMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler"])
def test_solvers_of_flows_are_flows(tmp_path, name):
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    denoiser = d2o.load(write(tmp_path, unet(), getattr(diffusers, name)(**options)))
    assert denoiser.preconditioning == Flow(time_scale=1000.0, shift=3.0)


def test_levels_of_a_flows_solver_are_its_own_but_for_the_first(tmp_path):
    scheduler = getattr(diffusers, DPM)(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    sigmas = torch.tensor(d2o.load(write(tmp_path, unet(), scheduler)).preconditioning.sigmas(10))
    scheduler.set_timesteps(10)
    torch.testing.assert_close(sigmas / (1 + sigmas), scheduler.sigmas, rtol=0, atol=2e-3)


class TestConfigs:
    """Configs as they are published, older and newer ones."""

    @pytest.fixture
    def read(self, tmp_path):
        unet().save_pretrained(tmp_path)

        def read(**config: Any) -> d2o.Denoiser:
            (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
            return inspect(tmp_path).denoiser

        return read

    @pytest.mark.parametrize(
        "config",
        [
            {"_class_name": FLOW, "num_train_timesteps": 1000, "shift": 3.0},
            {"_class_name": FLOW, "shift": 3, "base_shift": None, "shift_terminal": None},
            {"_class_name": "SomebodysScheduler", "shift": 3.0, "num_train_timesteps": 1000},
            {"_class_name": DPM, "prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
            {"_class_name": "Other", "prediction_type": "flow_prediction", "flow_shift": 3.0, "beta_start": 1e-4},
        ],
        ids=str,
    )
    def test_flows(self, read, config):
        found = read(**config).preconditioning
        assert isinstance(found, Flow) and found.shift == 3 and found.time_scale == 1000 and found.towards == "noise"

    def test_an_unknown_class_with_the_keys_of_a_discrete_schedule_is_one(self, read):
        found = read(
            _class_name="SomebodysScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        )
        assert found.preconditioning == Epsilon("scaled_linear", 0.00085, 0.012)
        assert found.provenance["scheduler"] == "SomebodysScheduler" and found.clip is None

    def test_what_moves_the_sampler_alone_is_ignored_and_said(self, read):
        plain = read(_class_name=FLOW, shift=3.0)
        found = read(_class_name=FLOW, shift=3.0, shift_terminal=0.02, use_karras_sigmas=True, stochastic_sampling=True)
        assert found.preconditioning == plain.preconditioning and "ignored" not in plain.provenance
        assert set(found.provenance["ignored"].split(", ")) == {
            "shift_terminal", "use_karras_sigmas", "stochastic_sampling",
        }  # fmt: skip

    def test_a_dynamic_shift_says_for_how_many_tokens_it_is(self, read):
        found = read(_class_name=FLOW, shift=1.0, use_dynamic_shifting=True)
        assert found.preconditioning.shift == pytest.approx(math.exp(mu(16)))
        assert found.provenance["assumed"] == {"tokens": 16}

    @pytest.mark.parametrize(
        ("config", "sentence"),
        [
            ({"_class_name": "SCMScheduler", "prediction_type": "trigflow", "sigma_data": 0.5}, "sigma_data = 0.5"),
            ({"_class_name": DPM, "use_flow_sigmas": True, "prediction_type": "epsilon"}, "'epsilon' on a flow's path"),
            ({"_class_name": FLOW, "shift": -1.0}, "shift"),
            ({"_class_name": FLOW, "shift": "3"}, "shift"),
            ({"_class_name": FLOW, "shift": 1.0, "num_train_timesteps": 0}, "num_train_timesteps"),
            ({"_class_name": FLOW, "shift": 1.0, "num_train_timesteps": 10**400}, "num_train_timesteps"),
            ({"_class_name": FLOW, "shift": 1.0, "time_shift_type": "cubic"}, "time_shift_type"),
            (
                {"_class_name": FLOW, "shift": 1.0, "use_dynamic_shifting": True, "max_shift": 1e7, "base_shift": 1e6},
                "16 tokens",
            ),
            ({"_class_name": FLOW, "shift": 1.0, "use_dynamic_shifting": True, "max_image_seq_len": 256}, "16 tokens"),
            (
                {
                    "_class_name": FLOW,
                    "shift": 1.0,
                    "use_dynamic_shifting": True,
                    "max_shift": 1e308,
                    "base_shift": -1e308,
                },
                "shift",
            ),
            (
                {
                    "_class_name": FLOW,
                    "shift": 1.0,
                    "use_dynamic_shifting": True,
                    "time_shift_type": "linear",
                    "base_shift": -5,
                },
                "shift",
            ),
            ({"_class_name": FLOW, "shift": 1.0, "use_dynamic_shifting": [1]}, "use_dynamic_shifting"),
            (
                {"_class_name": "EulerDiscreteScheduler", "beta_end": 0.02, "timestep_type": "continuous"},
                "timestep_type",
            ),
            ({"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0.01, "snr": 0.15}, "ScoreSdeVeScheduler"),
            ({"_class_name": ["FlowMatch"] * 9, "sigma_min": 1}, "nor the shift of a flow"),
            (
                {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5, "prediction_type": "epsilon"},
                "EDMEulerScheduler",
            ),
        ],
        ids=str,
    )
    def test_what_cannot_be_represented_is_refused(self, read, config, sentence):
        with pytest.raises(CheckpointError, match=sentence) as caught:
            read(**config)
        assert len(str(caught.value)) < 1000


def test_inspect_says_it_all(tmp_path, capsys):
    write(tmp_path, unet(), getattr(diffusers, FLOW)(use_dynamic_shifting=True, shift_terminal=0.02))
    assert run(["inspect", str(tmp_path)]) == 0
    rows = dict(line.strip().split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert "family flow" in rows["sampling"] and "pure noise" in rows["sampling"]
    assert "shift 1.58" in rows["preconditioning"] and "tokens 16" in rows["assumed"]
    assert "diffusion_pytorch_model.safetensors" in rows["provenance"] and "shift_terminal" in rows["provenance"]
