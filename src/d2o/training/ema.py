"""Moving averages of the student: the one that a run delivers, and short ones that objectives compare with."""

import torch
from torch import nn

from d2o.objectives.objective import Networks

from .recipe import Recipe


def ema_decay(images: int, batch_size: int, half_life: float, ramp: float | None = None) -> float:
    """Return the factor that the average keeps in one step; after `half_life` images half of it is gone.

    Early on the half-life is `ramp` times the images seen so far, so that the first weights are soon forgotten.
    """
    if ramp is not None:
        half_life = min(half_life, ramp * images)
    return 0.5 ** (batch_size / max(half_life, 1e-8))


@torch.no_grad()
def update_ema(ema: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the average towards the student: trainable parameters are averaged, buffers are copied."""
    pairs = zip(ema.parameters(), student.parameters(), strict=True)
    moving = [(average, current) for average, current in pairs if current.requires_grad]
    if moving:
        averages, currents = map(list, zip(*moving, strict=True))
        torch._foreach_lerp_(averages, currents, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
    for average, current in zip(ema.buffers(), student.buffers(), strict=True):
        average.copy_(current)


def update_averages(recipe: Recipe, networks: Networks, images: int) -> None:
    """Move all averages after an iteration, with which `images` were seen."""
    size, student = recipe.batch_size, networks.student
    images -= recipe.span(images - size)[0]
    update_ema(networks.ema, student, ema_decay(images, size, recipe.ema_half_life, recipe.ema_ramp))
    for name, half_life in recipe.averages.items():
        update_ema(networks[name], student, ema_decay(images, size, half_life))


def restart_averages(recipe: Recipe, networks: Networks) -> None:
    """Let all averages be the student."""
    for name in ("ema", *recipe.averages):
        update_ema(networks[name], networks.student, 0.0)
