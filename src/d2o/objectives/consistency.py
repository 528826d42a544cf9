"""Consistency distillation: neighbouring points of the teacher's trajectory should have one clean image."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.diffusion.noise import SIGMA_MAX

from .distance import Distance, PseudoHuber
from .objective import RECORD, Batch, Networks, Real, Whole
from .teaching import Solver, levels, per_pixel, pick, teacher_and_target, walk, wanted


@dataclass(frozen=True, config=RECORD)
class Consistency:
    """CD (arXiv 2303.01469, algorithm 2): the student at one level, against its short average one teacher step below.

    `steps` are the teacher's noise levels, Karras' from `sigma` down to 0.002. The average forgets half of itself in
    `target_half_life` images (the paper's decay of 0.95 at its batch of 512); with 0 it is the student itself.
    """

    kind: Literal["consistency"] = "consistency"
    weight: Real = 1.0
    distance: Distance = PseudoHuber()
    steps: Annotated[Whole, Field(ge=2)] = 18
    solver: Solver = "heun"
    target_half_life: Annotated[Real, Field(ge=0)] = 7000.0
    sigma: Annotated[Real, Field(gt=0)] = SIGMA_MAX

    dropout: ClassVar[bool] = False

    @property
    def needs(self) -> tuple[str, ...]:
        """The networks that it wants besides the student."""
        return wanted(self.target_half_life, self.distance.needs)

    def __call__(self, networks: Networks, batch: Batch) -> Tensor:
        """Return the distance [N] between the student's clean images of two neighbouring points."""
        teacher, target = teacher_and_target(networks)
        x0 = networks.student.encode(batch.x0)
        sigmas = levels(self.steps, self.sigma, networks.student, x0)[:-1]
        place = pick(batch, "consistency level", self.steps - 1)
        sigma, sigma_next = sigmas[place], sigmas[place + 1]
        x = x0 + per_pixel(sigma) * batch.noise("consistency noise", x0.shape[1:])
        with torch.no_grad():
            x_next = walk(teacher, x, sigma, sigma_next, batch.label, self.solver)
            aim = target(x_next, sigma_next, batch.label)
        return self.distance(networks, networks.student(x, sigma, batch.label), aim)
