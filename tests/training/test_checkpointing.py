"""A run whose blocks and feature networks run again is the run that keeps everything."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM
from d2o.training import loop, optimizers
from d2o.training.networks import networks
from d2o.training.recipe import Recipe
from refusal import refused

from .tiny import BATCH, RECIPES, plain_steps, stream


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_is_the_same(tiny_denoiser, monkeypatch, name):
    monkeypatch.setattr(optimizers, "Adam", plain_steps)
    recipe = replace(RECIPES[name], duration=3 * BATCH, micro_batch_size=3)  # the penalty is in the third iteration
    plain, again = (train(replace(recipe, checkpointing=on), tiny_denoiser(classes=2)) for on in (False, True))
    assert plain.losses == pytest.approx(again.losses, rel=1e-5)
    (wanted, _), (found, _) = plain.state(), again.state()
    assert list(wanted) == list(found)
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-6)


def train(recipe: Recipe, teacher: Denoiser) -> loop.Progress:
    *_, progress = loop.train(recipe, networks(recipe, teacher), stream())
    return progress


def test_a_network_without_blocks_is_told_so():
    teacher = Denoiser(nn.Conv2d(1, 1, 1), EDM(), (1, 8, 8))
    with refused("Conv2d", "checkpointing"):
        networks(replace(RECIPES["pretrain"], checkpointing=True), teacher)
