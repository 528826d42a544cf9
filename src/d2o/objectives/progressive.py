"""Progressive distillation: a student learns to make in one step what its teacher makes in two, again and again."""

from fractions import Fraction
from itertools import accumulate
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.records import RECORD, Whole

from .batch import Batch
from .distance import Distance, Squared
from .objective import Networks, Step
from .teaching import Solver, Teaching, levels, per_pixel, pick, solver_step, straight


def power_of_two(steps: int) -> int:
    """Refuse steps that cannot be halved until one is left."""
    if steps & (steps - 1):
        near = 2 ** (steps.bit_length() - 1)
        raise ValueError(f"progressive distillation halves its steps until one is left, so use {near} or {2 * near}")
    return steps


@dataclass(frozen=True, config=RECORD)
class Progressive(Teaching):
    """PD (arXiv 2202.00512, algorithm 2): rounds in which the steps are halved, until one is left.

    The first teacher takes `steps` steps of `solver`; after each of the log2(steps) rounds the student's copy is the
    teacher, by Euler steps, which are what it has learned. Every round has an optimiser, a schedule and averages of
    its own, and the last two, to two steps and to one, are twice as long as the others. `weighting` is the paper's
    truncated signal-to-noise ratio, max(1 / sigma^2, 1).
    """

    kind: Literal["progressive"] = "progressive"
    distance: Distance = Squared()
    steps: Annotated[Whole, Field(ge=2), AfterValidator(power_of_two)] = 32
    solver: Solver = "heun"
    weighting: Literal["truncated-snr", "none"] = "truncated-snr"

    keeps = ("teacher",)

    @property
    def lengths(self) -> list[int]:
        """The lengths of the rounds, the shortest being 1."""
        rounds = self.steps.bit_length() - 1
        return [2 if rounds > 2 and left <= 2 else 1 for left in range(rounds, 0, -1)]

    @property
    def shortest(self) -> int:
        return sum(self.lengths)

    @property
    def starts(self) -> list[Fraction]:
        return [Fraction(end, sum(self.lengths)) for end in accumulate(self.lengths[:-1])]

    def round(self, done: float) -> int:
        """Return the round, counted from 0, in which a run is when this share of it is done."""
        return sum(float(start) <= done for start in self.starts)

    def after(self, networks: Networks, step: Step) -> None:
        """Make the student the teacher of the next round."""
        if self.round(step.before) < self.round(step.done):
            networks["teacher"].load_state_dict(networks.student.state_dict())

    def teacher(self, networks: Networks, done: float) -> Denoiser:
        """Return the teacher of the round: after the first it is a former student, and preconditioned like one."""
        teacher = networks["teacher"]
        return teacher if self.round(done) == 0 else teacher.replace(preconditioning=networks.student.preconditioning)

    def __call__(self, networks: Networks, batch: Batch) -> Tensor:
        """Return the weighted distance [N] to the x0 whose single step ends where two of the teacher's do."""
        teacher, solver = self.teacher(networks, batch.done), "euler" if self.round(batch.done) else self.solver
        x0 = batch.latents_for(networks.student)
        sigmas = levels(self.steps, self.sigma, networks.student, x0)[:: 2 ** self.round(batch.done)]
        place = 2 * pick(batch, "progressive level", (len(sigmas) - 1) // 2)
        sigma, middle, sigma_next = sigmas[place], sigmas[place + 1], sigmas[place + 2]
        x = x0 + per_pixel(sigma) * batch.noise("progressive noise", x0.shape[1:])
        with torch.no_grad():
            x_middle = solver_step(teacher, x, sigma, middle, batch.condition, solver)
            x_next = solver_step(teacher, x_middle, middle, sigma_next, batch.condition, solver)
            aim = straight(x, sigma, x_next, sigma_next)
        distance = self.distance(networks, networks.student(x, sigma, batch.condition), aim)
        return distance * (1 / sigma**2).clamp(min=1) if self.weighting == "truncated-snr" else distance
