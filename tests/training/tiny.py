"""Recipes, data and networks that train in milliseconds; also used by processes that tests start."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import noise_for
from d2o.discriminators import Projected
from d2o.objectives.adversarial import Adversarial
from d2o.objectives.denoising import Denoising
from d2o.objectives.frechet import Frechet
from d2o.training.freezing import CONVOLUTIONS
from d2o.training.recipe import Recipe

JUDGE = Projected(weights="random", size=32, width=16, synchronise=True)
BATCH = 4
ADVERSARIAL = Recipe(
    objectives=(Adversarial(r1=1e-3, r1_every=2),),
    duration=6 * BATCH,
    batch_size=BATCH,
    discriminator=JUDGE,
    learning_rate=1e-3,
    discriminator_learning_rate=1e-3,
    ema_half_life=8.0,
    ema_ramp=None,
)
RECIPES = {
    "d2o": ADVERSARIAL,
    "d2o-f": replace(ADVERSARIAL, frozen=CONVOLUTIONS),
    "pretrain": replace(ADVERSARIAL, objectives=(Denoising(),), pretrained=False, betas=(0.9, 0.999)),
}
FRECHET = replace(ADVERSARIAL, objectives=(Frechet(spaces=("pixels",), size=16),))


def stream(
    start: int = 0, batch_size: int = BATCH, rank: int = 0, world: int = 1, classes: int = 2
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Yield one process's share of every batch of an endless stream whose image i depends on i only."""
    share = batch_size // world
    while True:
        index = torch.arange(start + rank * share, start + (rank + 1) * share)
        x0 = (noise_for((10**9 + index).tolist(), (1, 8, 8)) / 2).clamp(-1, 1)
        yield x0, index % classes if classes else None, index
        start += batch_size


def parameters_of(denoiser: Denoiser) -> dict[str, Tensor]:
    """Return a copy of all parameters by name."""
    return {name: parameter.detach().clone() for name, parameter in denoiser.named_parameters()}


def plain_steps(parameters: Any, lr: float, **_: Any) -> torch.optim.Optimizer:
    """Stand in for Adam where gradients are compared: it would blow up rounding errors of gradients that are zero."""
    return torch.optim.SGD(parameters, lr=lr)
