"""The walk in noise space: its ends are the seeds' noises, and all between them is as large as they are."""

import math
from itertools import pairwise

import pytest
import torch

from d2o.app.walk import along, between, slerp
from d2o.diffusion.noise import noise_for

SHAPE = (3, 16, 16)


def test_in_the_plane_it_is_a_rotation():
    for share in (0.0, 0.25, 0.5, 1.0):
        found = slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), share)
        angle = share * math.pi / 2
        torch.testing.assert_close(found, torch.tensor([math.cos(angle), math.sin(angle)]))


def test_its_speed_is_constant():
    start, end = noise_for([1, 2], SHAPE)
    start, end = start / start.norm(), end / end.norm()
    points = [slerp(start, end, share) for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    angles = [math.acos(float((a * b).sum())) for a, b in pairwise(points)]
    assert angles == pytest.approx([angles[0]] * 5, rel=1e-4)


def test_the_ends_are_the_seeds_noises():
    torch.testing.assert_close(between(SHAPE, 3, 9, [0.0, 1.0]), noise_for([3, 9], SHAPE))


def test_what_lies_between_is_as_large_as_noise():
    size = between(SHAPE, 0, 1, [i / 10 for i in range(11)]).flatten(1).std(1)
    assert size.min() > 0.9 and size.max() < 1.1


@pytest.mark.parametrize("sign", [1, -1])
def test_noises_of_one_line_have_no_great_circle_and_still_a_way(sign):
    start = noise_for([5], SHAPE)[0]
    way = slerp(start, sign * start, 0.25)
    torch.testing.assert_close(way, start * (1 if sign == 1 else 0.5))
    assert way.isfinite().all()


def test_whole_positions_are_seeds_and_the_walk_is_continuous():
    torch.testing.assert_close(along(SHAPE, 4, 3), noise_for([7], SHAPE))
    before, after = along(SHAPE, 4, 3 - 1e-6), along(SHAPE, 4, 3 + 1e-6)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=0)
