"""Every objective learns: from one teacher of eight Gaussians, each one-step student reaches the teacher's samples.

The distance is the energy distance of 2,000 points, of which the teacher's own two halves are about 0.001 apart, a
circle without modes 0.03 and the un-tuned teacher in one call 0.3.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from d2o.diffusion.noise import karras_sigmas, noise_for
from d2o.diffusion.sampling import heun_step, sample
from d2o.objectives import Consistency, Progressive, ReverseConsistency, Trajectory
from d2o.training.loop import train
from d2o.training.networks import networks
from d2o.training.recipe import Recipe
from d2o.training.recipes import PRETRAIN

from .mixture import BATCH, energy, stream, untrained

NOISE = noise_for(range(2000), (2, 1, 1))
FAST: dict[str, Any] = {"batch_size": BATCH, "ema_half_life": 4000.0, "learning_rate_decay": "linear"}


def trained(recipe: Recipe, teacher):
    *_, last = train(recipe, networks(recipe, teacher), stream())
    return last.ema


@pytest.fixture(scope="module")
def teacher():
    return trained(replace(PRETRAIN, duration=100_000, learning_rate=3e-3, **FAST), untrained())


@pytest.fixture(scope="module")
@torch.no_grad()
def wanted(teacher):
    return sample(teacher, NOISE, karras_sigmas(18), heun_step).flatten(1)


def test_the_untuned_teacher_is_far_from_it_in_one_call(teacher, wanted):
    with torch.no_grad():
        assert energy(sample(teacher, NOISE).flatten(1), wanted) > 0.1


STUDENTS = {
    "consistency": (Consistency(), 150_000),
    "progressive": (Progressive(steps=16), 150_000),
    "trajectory": (Trajectory(target_half_life=0), 120_000),
    "reverse-consistency": (ReverseConsistency(target_half_life=1000.0), 60_000),
}


@pytest.mark.parametrize(("objective", "duration"), STUDENTS.values(), ids=STUDENTS)
def test_a_one_step_student_reaches_its_teacher(teacher, wanted, objective, duration):
    recipe = Recipe((objective,), duration=duration, learning_rate=2e-3, betas=(0.9, 0.99), **FAST)
    student = trained(recipe, teacher)
    with torch.no_grad():
        assert energy(sample(student, NOISE).flatten(1), wanted) < 0.02
