"""A synthetic sequence whose band moves in a known way must give the known centroids, in any batches."""

import weakref

import numpy as np
import pytest
import torch

from d2o.analysis.frequency import Band, ring_sizes
from d2o.analysis.progression import Progression, deviation, follow, mean

SIDE = 32


def wave(cycles, phase):
    place = torch.arange(SIDE) / SIDE
    return torch.cos(2 * torch.pi * (cycles * place + phase)).expand(1, SIDE, SIDE)


def sequence(cycles, seeds):
    """Yield outputs [n,1,H,W] that gain a wave of so many cycles at each step, of any strength and phase."""
    generator = np.random.default_rng(3)
    strengths = {seed: generator.uniform(0.1, 10, len(cycles)) for seed in range(8)}
    output = torch.randn(len(seeds), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    yield output
    for step, k in enumerate(cycles):
        gain = torch.stack([strengths[seed][step] * wave(k, seed / 7) for seed in seeds])
        output = output + gain
        yield output


def progression(sigmas, batches):
    batches = [list(outputs) for outputs in batches]
    power = np.concatenate([follow(outputs)[0] for outputs in batches])
    return Progression("known", np.asarray(sigmas[1:]), power, ring_sizes(*batches[0][0].shape[-2:]))


RISING = (1, 2, 3, 5, 8, 13)
SIGMAS = tuple(range(len(RISING) + 1, 0, -1))


def test_a_moving_band_gives_its_centroids():
    found = progression(SIGMAS, [sequence(RISING, range(8))])
    assert np.allclose(found.centroids, RISING, atol=1e-3)
    assert np.allclose(found.spectrum.sum(1), 1) and (found.spectrum.argmax(1) == RISING).all()
    assert found.sigmas.tolist() == list(SIGMAS[1:])
    value, low, high = found.rise()[:3]
    assert value == high == pytest.approx(1) and 0.97 < low < 1, "equal ones are no certainty"
    assert found.bands[:4] == [Band(0, 0), Band(1, 1), Band(2, 3), Band(4, 7)]
    assert np.allclose(found.energies[0].argmax(1), [1, 2, 2, 3, 4, 4])


def test_the_opposite_way_is_the_opposite():
    found = progression(SIGMAS, [sequence(RISING[::-1], range(4))])
    assert found.rise().value == pytest.approx(-1) and -1 < found.rise().high < -0.95


def test_batches_do_not_matter():
    at_once = progression(SIGMAS, [sequence(RISING, range(8))])
    in_parts = progression(SIGMAS, (sequence(RISING, range(i, i + 2)) for i in range(0, 8, 2)))
    assert np.allclose(at_once.spectrum, in_parts.spectrum, atol=1e-4)
    assert np.allclose(at_once.centroids, in_parts.centroids, atol=1e-3)


def test_only_two_outputs_are_held():
    alive = []

    def outputs():
        for step in range(20):
            output = torch.randn(1, 1, 8, 8)
            alive.append(weakref.ref(output))
            assert sum(one() is not None for one in alive) <= 3, step
            yield output

    follow(outputs())


def test_white_steps_do_not_rise():
    steps = torch.randn(12, 64, 1, 8, 8, generator=torch.Generator().manual_seed(5)).cumsum(0)
    found = progression(range(12, 0, -1), [steps])
    assert abs(found.rise().value) < 0.15
    assert np.allclose(found.centroids.mean(), 3.0, atol=0.05)


def test_a_step_without_change_counts_for_nothing():
    output = torch.randn(2, 1, 8, 8)
    other = output + torch.randn(2, 1, 8, 8)
    other[1] = output[1]
    found = progression((2, 1), [[output, other]])
    assert np.isnan(found.centroids[1, 0]) and np.isfinite(found.centroids[0, 0])
    assert np.isclose(found.spectrum.sum(), 1)


def test_what_never_changes_has_no_spectrum():
    output = torch.randn(2, 1, 8, 8)
    found = progression((2, 1), [[output, output]])
    for value in (found.spectrum, mean(found.centroids), deviation(found.centroids), mean(found.energies)):
        assert np.isnan(value).all()
    assert mean(np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]]))[0] == 2
