"""The moving average against its closed form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from d2o.training.ema import ema_decay, update_ema


@given(st.integers(1, 512), st.floats(1, 1e7))
def test_after_a_half_life_of_images_half_is_left_whatever_the_batch(batch_size, half_life):
    decay = ema_decay(10**9, batch_size, half_life, None)
    assert decay ** (half_life / batch_size) == pytest.approx(0.5)


def test_a_ramp_bounds_the_half_life_by_what_was_seen():
    assert ema_decay(1000, 50, 500_000, 0.05) == pytest.approx(0.5)  # half-life 50 images = one batch
    assert ema_decay(10**9, 50, 500_000, 0.05) == ema_decay(10**9, 50, 500_000, None)
    decays = [ema_decay(n, 64, 500_000, 0.05) for n in range(64, 64_000, 640)]
    assert decays == sorted(decays) and decays[0] < 1e-4


def test_no_ramp_to_speak_of_forgets_everything():
    assert ema_decay(64, 64, 500_000, 1e-12) == 0.0


def test_a_constant_student_is_approached_exponentially():
    torch.manual_seed(0)
    ema, student = nn.Linear(3, 2), nn.Linear(3, 2)
    distance = ema.weight.detach() - student.weight.detach()
    for _ in range(10):
        update_ema(ema, student, 0.9)
    torch.testing.assert_close(ema.weight - student.weight, 0.9**10 * distance)


def test_frozen_parameters_stay_and_buffers_are_copied():
    torch.manual_seed(0)
    ema, student = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    with torch.no_grad():
        student.weight.fill_(2.0)
        student.bias.fill_(2.0)
    student.bias.requires_grad_(False)
    for buffer in student.buffers():
        buffer.fill_(7)
    update_ema(ema, student, 0.75)
    assert ema.weight.tolist() == [1.25] * 3 and ema.bias.tolist() == [0.0] * 3
    assert [buffer.flatten().tolist() for buffer in ema.buffers()] == [[7.0] * 3, [7.0] * 3, [7]]


def test_a_student_that_is_frozen_altogether_is_no_error():
    ema, student = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    before = ema.weight.clone()
    update_ema(ema, student, 0.5)
    assert torch.equal(ema.weight, before)
