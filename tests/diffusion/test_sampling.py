"""Samplers on data whose answer is known: for N(0, s^2) the denoiser and the path of every image are closed forms."""

import math
from itertools import pairwise

import pytest
import torch

from d2o.diffusion.condition import choose_condition
from d2o.diffusion.denoiser import Guided
from d2o.diffusion.noise import ONE_STEP, flow_sigmas, karras_sigmas, noise_for, streams
from d2o.diffusion.sampling import (
    Churn,
    add_churn,
    euler_step,
    generate,
    heun_step,
    heun_step_in_time,
    renoise_step,
    sample,
    trajectory,
)
from refusal import refused

DATA = 0.5


def gaussian(x, sigma):
    """The best denoiser for data N(0, DATA^2)."""
    return DATA**2 / (sigma**2 + DATA**2) * x


def exact(noise, first, last):
    """Where the probability-flow ODE takes first * noise: x keeps its place among N(0, sigma^2 + DATA^2)."""
    return first * noise * math.sqrt((last**2 + DATA**2) / (first**2 + DATA**2))


def test_one_step_is_one_call_of_the_denoiser_in_every_form(tiny_denoiser):
    denoiser, noise = tiny_denoiser(), noise_for(range(5), (1, 8, 8))
    with torch.no_grad():
        answer = denoiser(80.0 * noise, 80.0)
        for step in (euler_step, heun_step, renoise_step([])):
            assert torch.equal(sample(denoiser, noise, ONE_STEP, step), answer)
            assert torch.equal(sample(denoiser, noise, karras_sigmas(1), step), answer)
        assert torch.equal(sample(denoiser, noise), answer)


def test_an_euler_step_is_the_slope_times_the_interval():
    x = noise_for([0], (1, 4, 4)).double()
    slope = (x - gaussian(x, 2.0)) / 2.0
    torch.testing.assert_close(euler_step(gaussian, x, 2.0, 1.5), x + (1.5 - 2.0) * slope)


@pytest.mark.parametrize(("step", "order"), [(euler_step, 1), (heun_step, 2)])
def test_the_order_of_a_step(step, order):
    noise = noise_for(range(3), (1, 4, 4)).double()

    def error(intervals):
        sigmas = [10.0 * (0.1 / 10.0) ** (i / intervals) for i in range(intervals + 1)]
        return float((sample(gaussian, noise, sigmas, step) - exact(noise, 10.0, 0.1)).abs().max())

    errors = [error(intervals) for intervals in (64, 128, 256)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_trajectory_visits_every_sigma_and_ends_where_sample_ends():
    noise, sigmas = noise_for(range(4), (1, 4, 4)), karras_sigmas(64)
    path = list(trajectory(gaussian, noise, sigmas, heun_step))
    assert len(path) == len(sigmas)
    assert path[0].dtype == torch.float64 and torch.equal(path[0], noise.double() * 80)
    assert torch.equal(path[-1].float(), sample(gaussian, noise, sigmas, heun_step))
    for x, sigma in zip(path, sigmas, strict=True):
        torch.testing.assert_close(x, exact(noise.double(), 80.0, sigma), rtol=0.01, atol=1e-4)


def test_heun_calls_the_denoiser_as_often_as_edm():
    calls = []

    def counted(x, sigma):
        calls.append(sigma)
        return gaussian(x, sigma)

    sample(counted, noise_for([0], (1, 2, 2)), karras_sigmas(18), heun_step)
    assert len(calls) == 35


@pytest.mark.parametrize("amount", [None, 10.0, 40.0])
@pytest.mark.parametrize(
    ("sigmas", "step"), [(karras_sigmas(64), heun_step), (flow_sigmas(64), heun_step_in_time)], ids=["EDM", "flow"]
)
def test_samples_of_the_exact_denoiser_have_the_variance_of_the_data(sigmas, step, amount):
    seeds = range(400)
    if amount is not None:
        churn = Churn(amount, inflation=1.0)  # inflation makes up for networks that remove too much noise
        step = add_churn(step, churn, 64, streams(range(1000, 1400)))
    images = sample(gaussian, noise_for(seeds, (1, 8, 8)), sigmas, step)
    tolerance = 5 * (2 / images.numel()) ** 0.5 + 0.005
    assert float(images.var()) / DATA**2 == pytest.approx(1, abs=tolerance)
    assert abs(float(images.mean())) < 5 * DATA / images.numel() ** 0.5


def test_renoising_with_the_exact_denoiser_gives_the_variance_of_its_last_step():
    # x0 = k x has variance k^2 (sigma^2 + previous): by hand for the levels 80 and 0.8
    noise = noise_for(range(400), (1, 8, 8))
    images = sample(gaussian, noise, (80.0, 0.8, 0.0), renoise_step(streams(range(1000, 1400))))
    shrink = [DATA**2 / (sigma**2 + DATA**2) for sigma in (80.0, 0.8)]
    expected = shrink[1] ** 2 * (shrink[0] ** 2 * 80.0**2 + 0.8**2)
    assert float(images.var()) == pytest.approx(expected, rel=0.04)


def test_no_churn_is_the_plain_sampler():
    noise, sigmas = noise_for(range(3), (1, 4, 4)), karras_sigmas(18)
    step = add_churn(heun_step, Churn(0.0), 18, streams(range(3)))
    assert torch.equal(sample(gaussian, noise, sigmas, step), sample(gaussian, noise, sigmas, heun_step))


def test_churn_changes_images_only_between_its_sigmas():
    noise = noise_for(range(3), (1, 4, 4))
    step = add_churn(heun_step, Churn(40.0, sigma_min=0.05, sigma_max=50.0), 4, streams(range(3)))
    for sigmas in ((80.0, 60.0, 51.0), (0.04, 0.02, 0.01)):
        assert torch.equal(sample(gaussian, noise, sigmas, step), sample(gaussian, noise, sigmas, heun_step))
    assert not torch.equal(sample(gaussian, noise, (50.0, 1.0), step), sample(gaussian, noise, (50.0, 1.0), heun_step))


class TestGuidance:
    def test_scale_one_is_conditional_and_zero_unconditional(self, tiny_denoiser):
        denoiser, x, label = tiny_denoiser(classes=3), noise_for(range(3), (1, 8, 8)), torch.tensor([0, 1, 2])
        with torch.no_grad():
            conditional, unconditional = denoiser(x, 1.0, label), denoiser(x, 1.0)
            assert not torch.allclose(conditional, unconditional, atol=1e-3)
            torch.testing.assert_close(Guided(denoiser, 1.0)(x, 1.0, label), conditional, rtol=1e-5, atol=1e-5)
            assert torch.equal(Guided(denoiser, 0.0)(x, 1.0, label), unconditional)

    def test_it_is_linear_in_its_scale(self, tiny_denoiser):
        denoiser, x, label = tiny_denoiser(classes=3), noise_for(range(3), (1, 8, 8)), torch.tensor([0, 1, 2])
        with torch.no_grad():
            one, two, three = (Guided(denoiser, scale)(x, 1.0, label) for scale in (1.0, 2.0, 3.0))
        torch.testing.assert_close(three - two, two - one, rtol=1e-4, atol=1e-4)


VARIANTS = {
    "one step": {},
    "heun": {"steps": 4},
    "euler": {"steps": 4, "sampler": "euler"},
    "churn": {"steps": 4, "churn": Churn()},
    "renoise": {"sampler": "renoise", "middle_sigmas": (5.0, 0.8)},
    "churned renoise": {"steps": 4, "sampler": "renoise", "churn": Churn()},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_an_image_depends_on_its_seed_only(tiny_denoiser, options):
    denoiser, seeds = tiny_denoiser(classes=3), [7, 3, 2**63 - 1, 0, 12]
    whole = torch.cat(list(generate(denoiser, seeds, **options)))
    pairs = torch.cat(list(generate(denoiser, seeds, batch_size=2, **options)))
    alone = torch.cat(list(generate(denoiser, seeds[3:4], **options)))
    torch.testing.assert_close(pairs, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone, whole[3:4], rtol=1e-4, atol=1e-4)
    assert torch.equal(whole, torch.cat(list(generate(denoiser, seeds, **options))))
    assert (whole[1:] - whole[:-1]).abs().amax((1, 2, 3)).min() > 0.01


def test_the_stochastic_samplers_are_not_the_plain_ones(tiny_denoiser):
    denoiser = tiny_denoiser()
    variants = [options for name, options in VARIANTS.items() if name != "one step"]
    images = [torch.cat(list(generate(denoiser, [0, 1], **options))) for options in variants]
    for i, first in enumerate(images):
        for second in images[i + 1 :]:
            assert not torch.allclose(first, second, atol=1e-3)


def test_generate_takes_no_gradients_and_stays_float32(tiny_denoiser):
    (images,) = generate(tiny_denoiser(), [0, 1], steps=2)
    assert images.dtype == torch.float32 and images.shape == (2, 1, 8, 8) and not images.requires_grad


def test_the_class_of_an_image_is_its_seed_modulo_the_classes(tiny_denoiser):
    denoiser, seeds = tiny_denoiser(classes=3), [0, 1, 2, 3, 10]
    assert choose_condition(seeds, 3) is not None
    given = torch.cat(list(generate(denoiser, seeds, condition=[0, 1, 2, 0, 1])))
    assert torch.equal(torch.cat(list(generate(denoiser, seeds))), given)
    same = torch.cat(list(generate(denoiser, seeds, condition=2)))
    assert torch.equal(same, torch.cat(list(generate(denoiser, seeds, condition=[2] * 5))))
    assert not torch.allclose(same[0], given[0], atol=1e-3)


def test_a_model_without_classes_has_no_labels():
    assert choose_condition([1, 2], 0) is None


@pytest.mark.parametrize(
    ("classes", "options", "names"),
    [
        (0, {"sampler": "ddim"}, ("ddim", "heun", "euler", "renoise")),
        (0, {"steps": 0}, ("0", "step")),
        (0, {"condition": 1}, ("class",)),
        (3, {"condition": 3}, ("2", "3")),
        (3, {"condition": -1}, ("2", "-1")),
        (3, {"condition": [0]}, ("2", "1")),
        (0, {"batch_size": 0}, ("0",)),
        (0, {"batch_size": -4}, ("-4",)),
        (0, {"steps": 4, "churn": Churn(-1.0)}, ("-1.0",)),
        (0, {"steps": 4, "churn": Churn(math.nan)}, ("nan",)),
        (0, {"middle_sigmas": (0.8, 5.0)}, ("80", "0.8", "5.0")),
        (0, {"middle_sigmas": (100.0,)}, ("80", "100.0")),
        (0, {"middle_sigmas": (0.0,)}, ("80", "0.0")),
        (0, {"middle_sigmas": (math.nan,)}, ("80", "nan")),
    ],
)
def test_what_cannot_be_sampled_is_a_clear_error(tiny_denoiser, classes, options, names):
    with refused(*names):
        list(generate(tiny_denoiser(classes=classes), [0, 1], **options))
