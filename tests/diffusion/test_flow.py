"""Flow matching: every convention's denoiser, pure noise to the bit, and the levels and steps of stock schedulers."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, Epsilon, Flow, Velocity, from_spec, start_at, to_spec
from d2o.diffusion.noise import PURE_NOISE, flow_sigmas, noise_for
from d2o.diffusion.sampling import euler_step, generate, heun_step, heun_step_in_time, sample

CONVENTIONS: list[Flow] = [
    Flow(path=path, towards=towards, time_scale=scale, angular=angular)  # pyright: ignore[reportArgumentType]
    for path, angular in (("linear", False), ("trigonometric", False), ("trigonometric", True))
    for towards in ("noise", "image")
    for scale in (1.0, 1000.0)
]
MEAN, DEVIATION = 0.7, 0.5


class Network(nn.Module):
    """A network that is no function of x alone and remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x, noise, label=None, augmentation=None):
        self.seen = x.clone(), noise.clone()
        return self.layer(torch.cat([x, (noise / 1000).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], 1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().requires_grad_(False)


@pytest.mark.parametrize("family", CONVENTIONS, ids=str)
def test_the_true_velocity_gives_the_true_image(family):
    sigma = torch.tensor([1e-4, 0.01, 0.5, 1, 7, 80, 1e4, PURE_NOISE], dtype=torch.float64)
    x0, noise = torch.randn(2, len(sigma), dtype=torch.float64)
    skip, output, scale, told = family(sigma)
    if family.path == "linear":
        time = sigma / (1 + sigma)
        seen, velocity = (1 - time) * x0 + time * noise, noise - x0
    else:
        angle = sigma.atan()
        seen, velocity = angle.cos() * x0 + angle.sin() * noise, angle.cos() * noise - angle.sin() * x0
        time = angle if family.angular else 2 / math.pi * angle
        velocity = velocity if family.angular else math.pi / 2 * velocity
    if family.towards == "image":
        end = math.pi / 2 if family.angular else 1
        velocity, time = -velocity, end - time
    x = x0 + sigma * noise
    torch.testing.assert_close(scale * x, seen)
    torch.testing.assert_close(told, family.time_scale * time, rtol=1e-6, atol=1e-6)
    # At pure noise x itself has lost x0 to rounding in float64's last seven digits.
    torch.testing.assert_close(skip * x + output * velocity, x0, rtol=0, atol=1e-7)


@pytest.mark.parametrize("towards", ["noise", "image"])
def test_one_step_is_the_noise_less_its_velocity_to_the_bit(network, towards):
    flow = Denoiser(network, Flow(towards=towards, time_scale=1000.0), (3, 8, 8))
    noise = noise_for(range(16), (3, 8, 8))
    image = sample(flow, noise, (flow.sigma_max, 0.0))
    seen, time = network.seen
    at_noise = 1000.0 if towards == "noise" else 0.0
    assert torch.equal(seen, noise) and time.sub(at_noise).abs().max() < 1e-5
    velocity = network(noise, time)
    assert torch.equal(image, noise - velocity if towards == "noise" else noise + velocity)
    assert torch.equal(torch.cat(list(generate(flow, range(16)))), image)


def test_80_is_another_start(network):
    flow, noise = Denoiser(network, Flow(time_scale=1000.0), (3, 8, 8)), noise_for(range(4), (3, 8, 8))
    image, other = (sample(flow, noise, (start, 0.0)) for start in (flow.sigma_max, 80.0))
    assert (image - other).abs().max() > 1e-3


@pytest.mark.parametrize(("steps", "shift"), [(1, 1.0), (4, 1.0), (4, 3.0), (28, 3.0)])
def test_euler_in_sigma_is_euler_in_time(network, steps, shift):
    flow, noise = Denoiser(network, Flow(time_scale=1000.0, shift=shift), (3, 8, 8)), noise_for(range(4), (3, 8, 8))
    even = np.linspace(1, 0, steps + 1)
    z = noise.double()
    for time, time_next in pairwise(shift * even / (1 + (shift - 1) * even)):
        z += (time_next - time) * network(z.float(), torch.full((4,), 1000 * time)).double()
    ours = sample(flow, noise, flow.preconditioning.sigmas(steps), euler_step)
    torch.testing.assert_close(ours, z.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("shift", "last"), [(1.0, "step"), (3.0, "step"), (3.0, "thousandth"), (1.0, "thousandth")])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_levels_are_those_of_the_stock_scheduler(steps, shift, last):
    """Some pipelines pass times down to 1 / steps; others leave them to the scheduler, which ends at a thousandth."""
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shift)
    given = {"sigmas": np.linspace(1, 1 / steps, steps)} if last == "step" else {"num_inference_steps": steps}
    scheduler.set_timesteps(**given)
    last_time = None if last == "step" else shift * 0.001 / (1 + (shift - 1) * 0.001)
    sigmas = np.array(Flow(shift=shift, last_time=last_time).sigmas(steps))
    np.testing.assert_allclose(sigmas / (1 + sigmas), scheduler.sigmas.numpy(), atol=1e-6)


def exact(x, sigma):
    """The best denoiser of data from N(MEAN, DEVIATION^2)."""
    return MEAN + DEVIATION**2 / (DEVIATION**2 + sigma**2) * (x - MEAN)


def test_heun_in_time_is_of_second_order_from_pure_noise():
    noise = torch.randn(64, dtype=torch.float64)
    truth = MEAN + DEVIATION * noise  # the path of a Gaussian keeps its quantile

    def errors(step):
        found = (sample(exact, noise, flow_sigmas(steps), step) for steps in (32, 64, 128))
        return [(images - truth).abs().max().item() for images in found]

    order = [math.log2(before / after) for before, after in pairwise(errors(heun_step_in_time))]
    assert order == pytest.approx([2, 2], abs=0.1)
    assert [math.log2(a / b) for a, b in pairwise(errors(euler_step))] == pytest.approx([1, 1], abs=0.1)
    assert errors(heun_step)[-1] > 1, "the trapezoid in sigma cannot cross an infinite interval"


def test_both_heuns_agree_on_a_short_way():
    x = torch.randn(64, dtype=torch.float64)
    for step in (heun_step, heun_step_in_time):
        assert (step(exact, x, 2.0, 1.99) - heun_step(exact, x, 2.0, 1.99)).abs().max() < 1e-6
        assert torch.equal(step(exact, x, 2.0, 0), exact(x, 2.0))


def test_heun_takes_a_level_for_each_image():
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    sigma, sigma_next = torch.tensor([[5.0, 2.0, 0.5], [3.0, 1.0, 0.1]], dtype=torch.float64).view(2, 3, 1, 1, 1)
    together = heun_step_in_time(exact, x, sigma, sigma_next)
    for i in range(3):
        alone = heun_step_in_time(exact, x[i : i + 1], sigma[i].item(), sigma_next[i].item())
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("family", [EDM(), Epsilon(), Velocity(), Flow(), Flow(path="trigonometric")], ids=str)
def test_the_weight_makes_the_error_the_networks_own(family):
    sigma = torch.tensor([0.01, 0.3, 1.0, 9.0, 70.0], dtype=torch.float64)
    x0, guess, x = torch.randn(3, 5, dtype=torch.float64)
    skip, output, *_ = family(sigma)
    wanted, said = (x0 - skip * x) / output, (guess - skip * x) / output
    torch.testing.assert_close(family.weight(sigma) * (guess - x0) ** 2, (said - wanted) ** 2)


def test_a_start_of_ones_own_begins_the_levels():
    family = start_at(Flow(shift=3.0), 5.0)
    first, *inner, last = family.sigmas(4)
    assert (first, last) == (5.0, 0.0) and all(a > b for a, b in pairwise(family.sigmas(4))) and len(inner) == 3
    assert start_at(Flow(), None) == Flow()


@pytest.mark.parametrize("family", CONVENTIONS, ids=str)
def test_it_is_kept_in_a_file(family):
    assert from_spec(to_spec(family)) == family


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_velocity_without_a_last_signal_starts_from_pure_noise(network, steps):
    """Against stock DDIM with trailing times, which is the walk in sigma without its rounding."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    options = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    scheduler: Any = DDIMScheduler(**options, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(steps)
    denoiser = Denoiser(network, Velocity(zero_snr=True, sigma_max=PURE_NOISE), (3, 8, 8))
    noise = noise_for(range(4), (3, 8, 8))
    x = noise
    for time in scheduler.timesteps:
        x = scheduler.step(network(x, torch.full((4,), float(time))), time, x).prev_sample
    ours = sample(denoiser, noise, denoiser.preconditioning.sigmas(steps), euler_step)
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-5)
    if steps == 1:
        assert (
            torch.equal(network.seen[0], noise) and (ours + network(noise, torch.full((4,), 999.0))).abs().max() < 1e-7
        )


def test_noise_cannot_be_predicted_where_there_is_nothing_else():
    with pytest.raises(ValueError, match="zero_snr"):
        Epsilon(zero_snr=True)
