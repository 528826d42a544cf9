"""Noise levels at their ends, and noise that belongs to its seed."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2o.diffusion import noise as noise_module
from d2o.diffusion.noise import (
    FEW,
    ONE_STEP,
    draw,
    karras_sigmas,
    log_normal_sigmas,
    noise_for,
    sampler_sigmas,
    streams,
    uniform_for,
)  # fmt: skip

SEEDS = st.integers(0, 2**128 - 1)


@given(st.integers(2, 200), st.floats(1e-3, 1), st.floats(2, 200), st.floats(1, 10))
def test_karras_sigmas_fall_from_end_to_end_and_then_to_zero(steps, sigma_min, sigma_max, rho):
    sigmas = karras_sigmas(steps, sigma_min, sigma_max, rho)
    assert len(sigmas) == steps + 1
    assert (sigmas[0], sigmas[-2], sigmas[-1]) == (sigma_max, sigma_min, 0.0)
    assert all(high > low for high, low in pairwise(sigmas))


def test_one_karras_step_is_the_one_step_generator():
    assert karras_sigmas(1) == ONE_STEP == (80.0, 0.0)
    assert karras_sigmas(2) == (80.0, 0.002, 0.0)


@given(st.integers(1, 60), st.floats(0.1, 200))
def test_every_one_of_few_steps_counts_and_many_are_edms(steps, sigma_max):
    sigmas = sampler_sigmas(steps, sigma_max)
    assert len(sigmas) == steps + 1 and sigmas[0] == sigma_max and sigmas[-1] == 0
    assert all(high > low for high, low in pairwise(sigmas))
    if steps > FEW:
        assert sigmas == karras_sigmas(steps, sigma_max=sigma_max)
    else:  # the last interval is as long in time as it is on a straight path
        times = [sigma / (1 + sigma) for sigma in sigmas]
        assert times[-2] == pytest.approx(times[0] / steps)


def test_karras_sigmas_are_evenly_spaced_in_their_root():
    roots = [sigma ** (1 / 7) for sigma in karras_sigmas(18)[:-1]]
    gaps = [a - b for a, b in pairwise(roots)]
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-9)
    assert karras_sigmas(18)[1] == pytest.approx((80 ** (1 / 7) + (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 17) ** 7)


@pytest.mark.parametrize("arguments", [(0,), (-3,), (5, 0.0), (5, -1.0), (5, 80.0, 80.0), (5, 2.0, 1.0)])
def test_impossible_noise_levels_are_refused(arguments):
    with pytest.raises(ValueError):
        karras_sigmas(*arguments)


@settings(max_examples=30, deadline=None)
@given(st.lists(SEEDS, min_size=1, max_size=5), st.data())
def test_noise_depends_on_its_seed_only_whatever_the_batch(seeds, data):
    place = data.draw(st.integers(0, len(seeds) - 1))
    assert torch.equal(noise_for(seeds, (2, 3, 4))[place], noise_for([seeds[place]], (2, 3, 4))[0])
    assert torch.equal(uniform_for(seeds, 5)[place], uniform_for([seeds[place]], 5)[0])


def test_noise_is_unit_normal():
    noise = noise_for(range(1000), (1, 16, 16))
    count = noise.numel()
    assert abs(noise.mean()) < 5 / count**0.5
    assert abs(noise.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((noise**4).mean() - 3) < 5 * (96 / count) ** 0.5  # the fourth moment tells a normal from others


def test_neighbouring_seeds_share_nothing():
    seeds = [*range(200), *(2**64 + i for i in range(200)), *(1 << 96 | i << 64 for i in range(200))]
    noise = noise_for(seeds, (1, 8, 8)).flatten(1)
    correlation = noise @ noise.T / 64 - torch.eye(len(seeds)) * noise.square().mean(1)
    assert correlation.abs().max() < 6.5 / 8  # of 180,000 pairs of independent rows; equal rows would give 1
    assert len(noise.flatten().unique()) > 0.99 * noise.numel()


def test_a_generator_goes_on_and_the_shape_does_not_matter_to_its_numbers():
    generators = streams([3, 4])
    first, second = draw(generators, (1, 2, 2)), draw(generators, (1, 2, 2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat([first, second], 1).flatten(1), noise_for([3, 4], (8,)))


@settings(max_examples=30, deadline=None)
@given(st.lists(SEEDS, min_size=1, max_size=4))
def test_one_generator_wound_back_is_as_good_as_many(seeds):
    assert torch.equal(noise_for(seeds, (7,)), draw(streams(seeds), (7,)))
    fresh = [generator.random(3, dtype=np.float32) for generator in streams(seeds)]
    assert np.array_equal(uniform_for(seeds, 3).numpy(), np.stack(fresh))


def test_uniform_numbers_are_inside_their_interval_and_even():
    uniform = uniform_for(range(2000), 10)
    assert uniform.min() > 0 and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 5 * (1 / 12 / uniform.numel()) ** 0.5
    assert abs(uniform.var() - 1 / 12) < 0.002


def test_log_normal_sigmas_have_the_quantiles_asked_for():
    level = torch.tensor([0.15865525, 0.5, 0.84134475], dtype=torch.float64)
    expected = torch.tensor([-1.2 - 0.7, -1.2, -1.2 + 0.7], dtype=torch.float64).exp()
    torch.testing.assert_close(log_normal_sigmas(level, -1.2, 0.7), expected)


def test_extreme_uniform_numbers_still_give_a_finite_sigma():
    tiny = torch.tensor([2.0**-25, 1 - 2.0**-24])
    assert log_normal_sigmas(tiny).isfinite().all()
    assert math.log(log_normal_sigmas(tiny)[1]) < -1.2 + 6 * 1.2


def test_the_ends_of_the_generators_range_have_a_normal_quantile(monkeypatch):
    class Ends:
        def random(self, count, dtype):
            return np.array([0, 1 - 2.0**-24], dtype)[:count]

    monkeypatch.setattr(noise_module, "restart_streams", lambda seeds: [Ends() for _ in seeds])
    (uniform,) = uniform_for([0], 2)
    assert uniform[0] == 2.0**-25 and uniform[1] == 1 - 2.0**-24
    assert log_normal_sigmas(uniform).isfinite().all()
