"""Discrete schedules: the noise levels of DDPM, its two predictions, and where sampling starts."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2o.diffusion.families import EDM, Boundary, Epsilon, Velocity, from_spec, to_spec
from d2o.diffusion.sampling import generate
from d2o.diffusion.schedules import SCHEDULES

FAMILIES = [Epsilon, Velocity]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_spec_comes_back_as_the_same_record(family, schedule):
    made = family(schedule, 0.001, 0.01, 50, sigma_max=3.0)
    assert from_spec(to_spec(made)) == made
    given: Any = from_spec({**to_spec(made), "betas": [0.1, 0.2]})
    assert given.levels.tolist() == pytest.approx([math.sqrt(0.1 / 0.9), math.sqrt(0.28 / 0.72)])


def test_ddpm_has_the_known_levels():
    levels = Epsilon().levels
    assert levels[0].item() == pytest.approx(0.0100, abs=1e-4) and levels[-1].item() == pytest.approx(157.407, abs=1e-3)
    assert levels[930].item() == pytest.approx(80.29, abs=0.005)
    sigma = torch.tensor([0.0, 0.01, 80.0, 80.29, 157.4, 1e4])
    assert Epsilon()(sigma).noise.tolist() == [0, 0, 930, 930, 999, 999]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_time_is_found_from_its_own_level(schedule, dtype):
    made = Epsilon(schedule)
    assert torch.equal(made.time(made.levels.to(dtype)), torch.arange(1000, dtype=dtype))


@given(st.floats(0.011, 150))
def test_the_nearest_time_is_nearest_in_the_logarithm(sigma):
    made = Epsilon()
    distance = (made.levels.log() - math.log(sigma)).abs()
    time = int(made(torch.tensor(sigma, dtype=torch.float64)).noise)
    assert distance[time] <= distance.min() + 1e-12


@pytest.mark.parametrize("sigma", [0.01, 1.0, 80.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_that_knows_the_noise_gives_back_the_image(family, sigma):
    x0, noise, sigma = 0.3, -1.4, torch.tensor(sigma, dtype=torch.float64)
    signal = 1 / (1 + sigma**2)
    prediction = noise if family is Epsilon else signal.sqrt() * noise - (1 - signal).sqrt() * x0
    c = family()(sigma)
    assert float(c.skip * (x0 + sigma * noise) + c.output * prediction) == pytest.approx(x0)
    assert float(c.input) == pytest.approx(float(signal.sqrt()))


@pytest.mark.parametrize(("family", "prediction"), [(Epsilon, "epsilon"), (Velocity, "v_prediction")])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_agrees_with_the_scheduler_of_diffusers(family, prediction, schedule):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(1000, beta_schedule=schedule, prediction_type=prediction, clip_sample=False)
    made = family(schedule)
    x, network = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for time in [0, 1, 100, 500, 930, 999]:
        theirs = scheduler.step(network, time, x).pred_original_sample
        c = made(made.levels[time])
        ours = c.skip * (x / c.input) + c.output * network
        assert int(c.noise) == time
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "exponential"},
        {"schedule": 3},
        {"steps": 0},
        {"steps": 10**9},
        {"steps": 10.0},
        {"beta_end": 1.5},
        {"beta_start": -1},
        {"betas": [0.5, 1.0]},
        {"betas": [0.5, None]},
        {"betas": "0.5"},
        {"betas": [1e-3] * 200_000},
        {"betas": [0.999999] * 100},
        {"sigma_max": 0},
        {"sigma_min": 1},
    ],
    ids=str,
)
def test_a_wrong_schedule_is_a_clear_error(wrong):
    with pytest.raises(ValueError, match=r"preconditioning|betas") as error:
        from_spec({"kind": "epsilon", **wrong})
    assert len(str(error.value)) < 400


class TestTheStart:
    def test_it_is_80_where_the_model_knows_as_much(self):
        assert {made.sigma_max for made in (EDM(), Boundary(), Epsilon(), Velocity("squaredcos_cap_v2"))} == {80.0}

    def test_it_is_the_schedules_own_where_that_ends_earlier(self):
        made = Epsilon("scaled_linear", 0.00085, 0.012)
        assert made.sigma_max == pytest.approx(14.61, abs=0.01) == float(made.levels[-1])
        assert Epsilon(sigma_max=1e6).sigma_max == pytest.approx(157.407, abs=1e-3)

    def test_sampling_begins_there(self, tiny_denoiser):
        denoiser, seen = tiny_denoiser(), []
        denoiser.preconditioning = Epsilon(sigma_max=5.0)
        forward = denoiser.forward
        denoiser.forward = lambda x, sigma, label=None: seen.append((float(x.std()), sigma)) or forward(x, sigma, label)
        list(generate(denoiser, range(20)))
        ((deviation, sigma),) = seen
        assert sigma == 5.0 and deviation == pytest.approx(5.0, rel=0.1)
        seen.clear()
        list(generate(denoiser, [0], steps=9, sampler="euler"))
        assert [sigma for _, sigma in seen][::8] == [5.0, 0.002]
