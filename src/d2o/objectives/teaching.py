"""What objectives that imitate a teacher have in common: its noise levels, its step, and what a student should say.

Every image of a batch has noise levels of its own: sigmas are tensors [N] here.
"""

from typing import Literal

import torch
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import karras_sigmas
from d2o.diffusion.sampling import euler_step, heun_step

from .objective import Batch, Networks

Solver = Literal["heun", "euler"]
TINY = 1e-8
"""Stands for a noise level of 0 where a network must be called although its answer is not used."""


def wanted(target_half_life: float, distance: tuple[str, ...]) -> tuple[str, ...]:
    """Return the networks that an objective wants besides the student; without an average it needs no target."""
    return ("teacher", *(("target",) if target_half_life else ()), *distance)


def levels(steps: int, sigma: float, student: Denoiser, x0: Tensor) -> Tensor:
    """Return the `steps` Karras levels from `sigma`, or the student's largest, downwards and a final 0: [steps + 1]."""
    return torch.tensor(karras_sigmas(steps, sigma_max=min(sigma, student.sigma_max)), dtype=x0.dtype).to(x0.device)


def pick(batch: Batch, purpose: str, count: int | Tensor) -> Tensor:
    """Return random whole numbers [N] from 0 to below `count`, which may differ between images."""
    most = torch.as_tensor(count, device=batch.x0.device)
    return torch.minimum((batch.uniform(purpose, 1)[:, 0] * most).long(), most - 1)


def per_pixel(sigma: Tensor) -> Tensor:
    """Return numbers [N] in a shape that multiplies images."""
    return sigma.view(-1, 1, 1, 1)


def walk(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, label: Tensor | None, solver: Solver
) -> Tensor:
    """Return x [N,C,H,W] after one step of the sampler from sigma to sigma_next, both [N]."""
    first = denoiser(x, sigma, label)

    def denoise(there: Tensor, sigma: Tensor) -> Tensor:
        return first if there is x else denoiser(there, sigma.flatten(), label)

    here, there = per_pixel(sigma), per_pixel(sigma_next)
    straight_on = euler_step(denoise, x, here, there)
    if solver == "euler":
        return straight_on
    return torch.where(there > 0, heun_step(denoise, x, here, there.clamp(min=TINY)), straight_on)


def straight(x: Tensor, sigma: Tensor, x_next: Tensor, sigma_next: Tensor) -> Tensor:
    """Return the x0 for which one Euler step from (x, sigma) ends at (x_next, sigma_next) (arXiv 2202.00512, G)."""
    ratio = per_pixel(sigma_next / sigma)
    return (x_next - ratio * x) / (1 - ratio)


def teacher_and_target(networks: Networks) -> tuple[Denoiser, Denoiser]:
    """Return the teacher, and the network whose answers are the student's targets: its short average, or itself."""
    assert networks.teacher is not None
    return networks.teacher, networks.student if networks.target is None else networks.target
