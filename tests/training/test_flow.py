"""Flows are pre-trained, distilled and fine-tuned like any other model, and start from pure noise."""

from dataclasses import replace

import pytest
import torch

import d2o
from d2o import checkpoints
from d2o.diffusion.families import Flow
from d2o.diffusion.noise import PURE_NOISE, noise_for
from d2o.objectives import Consistency, Progressive, ReverseConsistency, Trajectory
from d2o.objectives.distance import PseudoHuber
from d2o.training.loop import train
from d2o.training.networks import networks

from .tiny import ADVERSARIAL, RECIPES, stream


@pytest.fixture
def teacher(tiny_denoiser):
    return tiny_denoiser(classes=2).replace(preconditioning=Flow(time_scale=1000.0))


DISTILLED = {
    kind.__name__: replace(ADVERSARIAL, objectives=(kind(distance=PseudoHuber(), steps=4),))
    for kind in (Consistency, Progressive, Trajectory, ReverseConsistency)
}


@pytest.mark.parametrize("name", [*RECIPES, *DISTILLED])
def test_every_objective_trains_a_flow(name, teacher, tmp_path):
    recipe = {**RECIPES, **DISTILLED}[name]
    made = networks(recipe, teacher)
    assert isinstance(made.student.preconditioning, Flow) and made.student.sigma_max == PURE_NOISE
    *_, progress = train(recipe, made, stream())
    assert all(torch.tensor(loss).isfinite() for loss in progress.losses.values())
    checkpoints.save(tmp_path / "student.safetensors", progress.ema)
    again, noise = checkpoints.load(tmp_path / "student.safetensors"), noise_for(range(2), (1, 8, 8))
    with torch.no_grad():
        image = again(PURE_NOISE * noise, PURE_NOISE, torch.tensor([0, 1]))
        velocity = again.backbone(noise, torch.full((2,), 1000.0), torch.tensor([0, 1]))
    assert image.isfinite().all() and torch.equal(image, noise - velocity)


def test_pretraining_makes_a_flow(tiny_data, tmp_path):
    made = d2o.pretrain(tiny_data, out=tmp_path / "run", family="flow", backbone="tiny", duration=64, batch_size=16)
    assert made.denoiser.preconditioning == Flow(time_scale=1000.0)
    again = d2o.pretrain(tiny_data, out=tmp_path / "run", family="flow", backbone="tiny", duration=64, batch_size=16)
    assert torch.equal(*(next(one.denoiser.parameters()) for one in (made, again)))
    with pytest.raises(ValueError, match="flow"):
        d2o.pretrain(tiny_data, out=tmp_path / "other", family="flwo")
