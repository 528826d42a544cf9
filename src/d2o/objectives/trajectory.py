"""Trajectory distillation: a student that jumps between any two noise levels of the teacher's trajectory.

The student learns where a jump ends through its network's augmentation labels: SECOND_TIME numbers that are 0 for an
end at 0. So a jump to 0 is the plain call D(x, sigma, condition), a one-step generator like any other, and a network
whose weights for these labels are still 0 is its teacher.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o import backbones
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import SIGMA_MAX, SIGMA_MIN
from d2o.records import RECORD, Real

from .batch import Batch
from .objective import Networks
from .teaching import TINY, Distillation, levels, per_pixel, pick, solver_step, straight

SECOND_TIME = 16
"""Augmentation labels that encode the noise level at which a jump ends."""


def second_time(sigma: Tensor) -> Tensor:
    """Return sines and cosines [N, SECOND_TIME] of noise levels [N] on a logarithmic scale; all 0 at the level 0."""
    place = torch.log1p(sigma / SIGMA_MIN) / math.log1p(SIGMA_MAX / SIGMA_MIN)
    phase = place[:, None] * torch.pi * torch.arange(1, SECOND_TIME // 2 + 1, device=sigma.device)
    return torch.cat([phase.sin(), 1 - phase.cos()], 1)


def answer(student: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, condition: Tensor | None) -> Tensor:
    """Return the student's g(x, sigma, sigma_next) [N,C,H,W]: the x0 towards which it jumps."""
    before = getattr(student.backbone, "config", {}).get("augmentation_dim", SECOND_TIME) - SECOND_TIME
    end = torch.nn.functional.pad(second_time(sigma_next), (before, 0))
    return student(x, sigma, condition, end)


def jump(student: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, condition: Tensor | None) -> Tensor:
    """Return G(x, sigma, sigma_next) = r x + (1 - r) g, r = sigma_next / sigma (arXiv 2310.02279, equation 5)."""
    here = sigma.clamp(min=TINY)
    ratio = per_pixel((sigma_next / here).clamp(max=1))
    return ratio * x + (1 - ratio) * answer(student, x, here, sigma_next, condition)


@dataclass(frozen=True, config=RECORD)
class Jumping(Distillation):
    """An objective whose student takes the end of its jumps as an input."""

    def prepare(self, student: Denoiser) -> Denoiser:
        """Widen the student's network by the labels that say where a jump ends."""
        return super().prepare(
            student.replace(backbone=backbones.add_augmentation_labels(student.backbone, SECOND_TIME))
        )


@dataclass(frozen=True, config=RECORD)
class Trajectory(Jumping):
    """CTM (arXiv 2310.02279) in its simplest form: jump at once, or after one teacher step, and end at one point.

    The ends are compared as the x0 that straight lines to them point at, rather than after a second jump to 0, and
    without the paper's denoising loss. Of the jumps, the share `to_zero` ends at 0, as those of a one-step generator
    do, and the others at any later level, as all do in the paper.
    """

    kind: Literal["trajectory"] = "trajectory"
    to_zero: Annotated[Real, Field(ge=0, le=1)] = 0.0

    def __call__(self, networks: Networks, batch: Batch) -> Tensor:
        teacher, target = networks["teacher"], networks["target"] or networks.student
        x0 = batch.latents_for(networks.student)
        sigmas = levels(self.steps, self.sigma, networks.student, x0)
        start = pick(batch, "trajectory start", self.steps)
        end = start + 1 + pick(batch, "trajectory end", self.steps - start)
        end = end.where(batch.uniform("trajectory to zero", 1)[:, 0] >= self.to_zero, self.steps)
        sigma, middle, sigma_next = sigmas[start], sigmas[start + 1], sigmas[end]
        x = x0 + per_pixel(sigma) * batch.noise("trajectory noise", x0.shape[1:])
        with torch.no_grad():
            x_middle = solver_step(teacher, x, sigma, middle, batch.condition, self.solver)
            x_next = jump(target, x_middle, middle, sigma_next, batch.condition)
            x_next = torch.where(per_pixel(end == start + 1), x_middle, x_next)
            aim = straight(x, sigma, x_next, sigma_next)
        return self.distance(networks, answer(networks.student, x, sigma, sigma_next, batch.condition), aim)


@dataclass(frozen=True, config=RECORD)
class ReverseConsistency(Jumping):
    """RCD: consistency from the noise downwards, as the released D2O code means it; needs no real images.

    The start is fixed at `sigma`. The student's jump to a level should end where its jump to the level above and one
    teacher step from there end.
    """

    kind: Literal["reverse-consistency"] = "reverse-consistency"

    def __call__(self, networks: Networks, batch: Batch) -> Tensor:
        teacher, target = networks["teacher"], networks["target"] or networks.student
        sigmas = levels(self.steps, self.sigma, networks.student, batch.given)
        end = 1 + pick(batch, "reverse end", self.steps)
        sigma, middle, sigma_next = sigmas[torch.zeros_like(end)], sigmas[end - 1], sigmas[end]
        x = per_pixel(sigma) * batch.noise("reverse noise", networks.student.image_shape)
        with torch.no_grad():
            x_middle = jump(target, x, sigma, middle, batch.condition)
            x_middle = torch.where(per_pixel(end == 1), x, x_middle)
            x_next = solver_step(teacher, x_middle, middle, sigma_next, batch.condition, self.solver)
            aim = straight(x, sigma, x_next, sigma_next)
        return self.distance(networks, answer(networks.student, x, sigma, sigma_next, batch.condition), aim)
