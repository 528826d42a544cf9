"""What objectives that distil a teacher share: its noise levels, its step, and the student's target.

Every image of a batch has noise levels of its own: sigmas are tensors [N] here.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import start_at
from d2o.diffusion.sampling import euler_step, heun_step_of
from d2o.kernels.storage import widen_layers
from d2o.records import RECORD, Real, Whole

from .batch import Batch
from .distance import Distance, Lpips, PseudoHuber
from .objective import Objective

Solver = Literal["heun", "euler"]
TINY = 1e-8
"""Stands for a noise level of 0 where a network must be called although its answer is not used."""


@dataclass(frozen=True, config=RECORD)
class Teaching(Objective):
    """An objective that learns from a teacher, by a distance between images.

    The student starts from the noise level `sigma`, by default the teacher's own.
    """

    distance: Distance = PseudoHuber()
    sigma: Annotated[Real, Field(gt=0)] | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return ("teacher", *self.averages, *self.distance.needs)

    def prepare(self, student: Denoiser) -> Denoiser:
        return student.replace(preconditioning=start_at(student.preconditioning, self.sigma), one_step=True)

    def settings_of(self, name: str) -> Any:
        """Return the distance's settings: objectives that compare by LPIPS share one network."""
        return self.distance if name == "perceptual" else None

    def build(self, name: str, teacher: Denoiser, student: Denoiser) -> nn.Module:
        """Return a frozen copy of the teacher, or the network of the distance."""
        if name == "perceptual" and isinstance(self.distance, Lpips):
            return self.distance.build()
        if name != "teacher":
            return super().build(name, teacher, student)
        return copy_teacher(teacher, student)


def copy_teacher(teacher: Denoiser, student: Denoiser) -> Denoiser:
    """Return a frozen copy of a teacher that computes as the student does (see `copy_beside`)."""
    copy = copy_beside(teacher, student).replace(precision=student.precision)
    return copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def copy_beside(model: Denoiser, student: Denoiser) -> Denoiser:
    """Return a frozen copy of a model in evaluation mode, which holds nothing twice that the student holds.

    Where the model has what the student leaves as it is, up to its rounding, the copy has the student's own parameters.
    """
    own = dict(model.named_parameters())
    frozen = {name: p for name, p in student.named_parameters() if not p.requires_grad and name in own}
    shared = {id(own[name]): p for name, p in frozen.items() if is_rounded(own[name], p)}
    copy = deepcopy(model, shared).eval().requires_grad_(False)
    widen_layers(copy)
    return copy


def is_rounded(tensor: Tensor, other: Tensor) -> bool:
    """Return whether `other` is a tensor in its own type; on the meta device, without numbers, it is."""
    return other.is_meta or torch.equal(tensor.to(other.dtype), other)


@dataclass(frozen=True, config=RECORD)
class Distillation(Teaching):
    """An objective that compares the student with itself one teacher step on.

    The teacher takes `steps` steps, at the levels of its family from `sigma` on. The target is an average of the
    student that forgets half of itself in `target_half_life` images, so that it lags by as many whatever the batch: its
    decay an iteration is 0.95 at a batch of 512, 0.975 at 256 and 0.993 at 64, within what has been published (0.95 to
    0.999) from a batch of 8 on. Larger batches want a longer one: 27,000 is 0.95 at 2,048, and 177,000 CTM's 0.999 at
    256. With 0 the target is the student itself.
    """

    steps: Annotated[Whole, Field(ge=2)] = 18
    solver: Solver = "heun"
    target_half_life: Annotated[Real, Field(ge=0)] = 7000.0

    @property
    def averages(self) -> Mapping[str, float]:
        return {"target": self.target_half_life} if self.target_half_life else {}


def levels(steps: int, sigma: float | None, student: Denoiser, x0: Tensor) -> Tensor:
    """Return `steps` noise levels of the student's family, from `sigma` or its largest, and a final 0: [steps + 1]."""
    return torch.tensor(start_at(student.preconditioning, sigma).sigmas(steps), dtype=x0.dtype).to(x0.device)


def pick(batch: Batch, purpose: str, count: int | Tensor) -> Tensor:
    """Return random whole numbers [N] from 0 to below `count`, which may differ between images."""
    most = torch.as_tensor(count, device=batch.device)
    return torch.minimum((batch.uniform(purpose, 1)[:, 0] * most).long(), most - 1)


def per_pixel(sigma: Tensor) -> Tensor:
    return sigma.view(-1, 1, 1, 1)


def solver_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, condition: Tensor | None, solver: Solver
) -> Tensor:
    """Return x [N,C,H,W] after one step of the sampler from sigma to sigma_next, both [N]."""
    first = denoiser(x, sigma, condition)

    def denoise(there: Tensor, sigma: Tensor) -> Tensor:
        return first if there is x else denoiser(there, sigma.flatten(), condition)

    here, there = per_pixel(sigma), per_pixel(sigma_next)
    straight_on = euler_step(denoise, x, here, there)
    if solver == "euler":
        return straight_on
    heun_step = heun_step_of(denoiser.preconditioning)
    return torch.where(there > 0, heun_step(denoise, x, here, there.clamp(min=TINY)), straight_on)


def straight(x: Tensor, sigma: Tensor, x_next: Tensor, sigma_next: Tensor) -> Tensor:
    """Return the x0 for which one Euler step from (x, sigma) ends at (x_next, sigma_next) (arXiv 2202.00512, G)."""
    ratio = per_pixel(sigma_next / sigma)
    return (x_next - ratio * x) / (1 - ratio)
