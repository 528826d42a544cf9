"""What objectives share whose student makes images from pure noise, in one step or in a few."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import boundary_form, start_at
from d2o.diffusion.sampling import sample
from d2o.records import RECORD, Real

from .batch import Batch
from .objective import Objective


@dataclass(frozen=True, config=RECORD)
class OneStep(Objective):
    """An objective that looks at the student's own images, made from the noise level `sigma`, by default the model's.

    With `middle_sigmas` it makes images in more steps, back to noise of these levels after each (arXiv 2303.01469,
    algorithm 1); of every image of a batch a random one of its steps counts, all of which should be real.
    """

    sigma: Annotated[Real, Field(gt=0)] | None = None
    middle_sigmas: tuple[Annotated[Real, Field(gt=0)], ...] = ()

    def __post_init__(self) -> None:
        sigmas = self.middle_sigmas if self.sigma is None else (self.sigma, *self.middle_sigmas)
        if not all(sigma > sigma_next for sigma, sigma_next in pairwise(sigmas)):
            raise ValueError("middle_sigmas must fall from sigma towards 0")

    def prepare(self, student: Denoiser) -> Denoiser:
        """Let the student start from `sigma`, an EDM network in the boundary form of consistency models."""
        family = start_at(boundary_form(student.preconditioning), self.sigma)
        if self.middle_sigmas and self.middle_sigmas[0] >= family.sigma_max:
            raise ValueError(
                f"The recipe's middle_sigmas begin with {self.middle_sigmas[0]:g}, but this model starts from "
                f"{family.sigma_max:g}: name smaller ones with --set 'objectives.0.middle_sigmas=[0.8]'."
            )
        changes = {"one_step": True, "middle_sigmas": self.middle_sigmas, "clip": None}  # clipped pixels learn nothing
        return student.replace(preconditioning=family, **changes)

    def make(self, student: Denoiser, batch: Batch) -> Tensor:
        """Return the images of the student's turn, as `generate` does; objectives that make them alike share them."""
        made = batch.shared.get(MADE, {})  # the loop's, for one turn: later the student is another
        key = self.sigma, self.middle_sigmas
        if key not in made:
            made[key] = self.generate(student, batch, "generator")
        return made[key]

    def generate(self, student: Denoiser, batch: Batch, purpose: str) -> Tensor:
        """Return images of the student [N,C,H,W], before they are decoded, from the batch's noise."""
        sigmas = (start_at(student.preconditioning, self.sigma).sigma_max, *self.middle_sigmas)
        noise = [batch.noise(purpose if k == 0 else f"{purpose} {k}", student.image_shape) for k in range(len(sigmas))]
        if len(sigmas) == 1:
            return sample(lambda x, sigma: student(x, sigma, batch.condition), noise[0], (*sigmas, 0.0))
        stages = batch.choices(f"{purpose} stage", len(sigmas))
        return sample_random_stage(student, noise, sigmas, stages, batch.condition)


MADE = "made"
"""Where a batch keeps the images of a student's turn."""


def sample_random_stage(
    student: Denoiser, noise: Sequence[Tensor], sigmas: Sequence[float], stages: Sequence[int], condition: Tensor | None
) -> Tensor:
    """Return for image i what the sampler by renoising has made after its call number `stages[i]`, counted from 0.

    Gradients pass through that call alone: its input is taken as it is, as when images are made.
    """
    stage, x = torch.tensor(stages), sigmas[0] * noise[0]
    images, order = [], []
    for k, sigma in enumerate(sigmas):
        here, later = ((stage == k).nonzero()[:, 0], (stage > k).nonzero()[:, 0])
        if len(here):
            images.append(student(x[here], sigma, None if condition is None else condition[here]))
            order.append(here)
        if len(later):
            with torch.no_grad():
                x0 = student(x[later], sigma, None if condition is None else condition[later])
            x = x.index_copy(0, later.to(x.device), x0 + sigmas[k + 1] * noise[k + 1][later])
    return torch.cat(images)[torch.cat(order).argsort()]
