"""What follows the student: the moving average that a run delivers, a shorter one, and the teacher of a next round."""

import torch
from torch import nn

from d2o.objectives.objective import Networks
from d2o.objectives.progressive import Progressive

from .recipe import Recipe


def ema_decay(images: int, batch_size: int, half_life: float, ramp: float | None) -> float:
    """Return the factor that the average keeps in one step; after `half_life` images half of it is gone.

    Early on the half-life is `ramp` times the images seen so far, so that the first weights are soon forgotten.
    """
    if ramp is not None:
        half_life = min(half_life, ramp * images)
    return 0.5 ** (batch_size / max(half_life, 1e-8))


@torch.no_grad()
def update_ema(ema: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the average towards the student: parameters that train are averaged, buffers are copied."""
    pairs = [
        (average, current)
        for average, current in zip(ema.parameters(), student.parameters(), strict=True)
        if current.requires_grad
    ]
    if pairs:
        averages, currents = zip(*pairs, strict=True)
        torch._foreach_lerp_(list(averages), list(currents), 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
    for average, current in zip(ema.buffers(), student.buffers(), strict=True):
        average.copy_(current)


@torch.no_grad()
def follow(recipe: Recipe, networks: Networks, images: int) -> None:
    """Move everything that follows the student after the iteration with which `images` images have been seen."""
    size = recipe.batch_size
    update_ema(networks.ema, networks.student, ema_decay(images, size, recipe.ema_half_life, recipe.ema_ramp))
    if networks.target is not None:
        update_ema(networks.target, networks.student, ema_decay(images, size, target_half_life(recipe), None))
    before, after = (images - size) / recipe.duration, images / recipe.duration
    for objective in recipe.objectives:
        if isinstance(objective, Progressive) and objective.round(before) < objective.round(after):
            assert networks.teacher is not None
            networks.teacher.load_state_dict(networks.student.state_dict())


def target_half_life(recipe: Recipe) -> float:
    """Return the images after which half of the target is replaced; 0 where no objective wants a target."""
    return max(getattr(objective, "target_half_life", 0.0) for objective in recipe.objectives)
