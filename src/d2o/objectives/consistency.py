"""Consistency distillation: neighbouring points of the teacher's trajectory should have one clean image."""

from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import boundary_form, start_at
from d2o.records import RECORD

from .batch import Batch
from .objective import Networks
from .teaching import TINY, Distillation, levels, per_pixel, pick, solver_step


@dataclass(frozen=True, config=RECORD)
class Consistency(Distillation):
    """CD (arXiv 2303.01469, algorithm 2): the student at one level, against its average one teacher step below.

    A step to 0 ends at the image itself. At the boundary form's own `sigma_min` there is nothing to learn.
    """

    kind: Literal["consistency"] = "consistency"

    def prepare(self, student: Denoiser) -> Denoiser:
        """Let the student start from `sigma`, an EDM network in the boundary form of consistency models."""
        return super().prepare(student.replace(preconditioning=boundary_form(student.preconditioning)))

    def __call__(self, networks: Networks, batch: Batch) -> Tensor:
        teacher, target = networks["teacher"], networks["target"] or networks.student
        x0 = batch.latents_for(networks.student)
        sigmas = levels(self.steps, self.sigma, networks.student, x0)
        family = start_at(networks.student.preconditioning, self.sigma)
        learned = sum(sigma > getattr(family, "sigma_min", 0.0) for sigma in family.sigmas(self.steps))
        place = pick(batch, "consistency level", learned)
        sigma, sigma_next = sigmas[place], sigmas[place + 1]
        x = x0 + per_pixel(sigma) * batch.noise("consistency noise", x0.shape[1:])
        with torch.no_grad():
            x_next = solver_step(teacher, x, sigma, sigma_next, batch.condition, self.solver)
            aim = target(x_next, sigma_next.clamp(min=TINY), batch.condition)
            aim = torch.where(per_pixel(sigma_next) > 0, aim, x_next)
        return self.distance(networks, networks.student(x, sigma, batch.condition), aim)
