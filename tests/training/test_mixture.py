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
from d2o.training.loop import train
from d2o.training.networks import networks
from d2o.training.recipe import Recipe
from d2o.training.recipes import METHODS, PRETRAIN

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


STUDENTS = {"cd": 150_000, "pd": 150_000, "ctm": 120_000, "rcd": 60_000}
"""Images that the named recipe, with its own objective and Adam, is given."""


@pytest.mark.parametrize(("name", "duration"), STUDENTS.items())
def test_a_one_step_student_reaches_its_teacher(teacher, wanted, name, duration):
    student = trained(replace(METHODS[name], duration=duration, learning_rate=2e-3, **FAST), teacher)
    with torch.no_grad():
        assert energy(sample(student, NOISE).flatten(1), wanted) < 0.02
