"""What the page shows is what the library generates; its counts are true; between seeds the noise stays noise."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from d2o.data.files import to_uint8
from d2o.diffusion.noise import noise_for
from d2o.diffusion.sampling import generate
from d2o.server.generation import make_images, noise_at, sample_stages, slerp
from d2o.server.query import Point

SHAPE = (3, 16, 16)
SEVEN = Point(7, 8, 0.0)


class TestNoise:
    def test_in_the_plane_slerp_is_a_rotation(self):
        for share in (0.0, 0.25, 0.5, 1.0):
            found = slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), share)
            angle = share * math.pi / 2
            torch.testing.assert_close(found, torch.tensor([math.cos(angle), math.sin(angle)]))

    def test_its_speed_is_constant(self):
        start, end = noise_for([1, 2], SHAPE)
        start, end = start / start.norm(), end / end.norm()
        points = [slerp(start, end, share) for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
        angles = [math.acos(float((a * b).sum())) for a, b in pairwise(points)]
        assert angles == pytest.approx([angles[0]] * 5, rel=1e-4)

    def test_the_ends_are_the_seeds_noises_and_the_way_is_continuous(self):
        points = [Point(3, 9, 0.0), Point(3, 9, 1.0), Point(3, 9, 1 - 1e-6)]
        first, last, near = noise_at(points, SHAPE)
        torch.testing.assert_close(torch.stack([first, last]), noise_for([3, 9], SHAPE))
        torch.testing.assert_close(near, last, atol=1e-4, rtol=0)

    def test_what_lies_between_is_as_large_as_noise(self):
        size = noise_at([Point(0, 1, i / 10) for i in range(11)], SHAPE).flatten(1).std(1)
        assert size.min() > 0.9 and size.max() < 1.1

    @pytest.mark.parametrize("sign", [1, -1])
    def test_noises_of_one_line_have_no_great_circle_and_still_a_way(self, sign):
        start = noise_for([5], SHAPE)[0]
        torch.testing.assert_close(slerp(start, sign * start, 0.25), start * (1 if sign == 1 else 0.5))


def test_one_call_is_the_one_step_generator(tiny_denoiser):
    denoiser, seeds, calls = tiny_denoiser(classes=3), [4, 5, 9], []
    denoiser.backbone.register_forward_hook(lambda *_: calls.append(1))
    labels = torch.tensor([seed % 3 for seed in seeds])
    images, seconds = make_images(denoiser, [Point(seed, 0, 0.0) for seed in seeds], labels)
    assert len(calls) == 1 and seconds > 0
    assert np.array_equal(images, to_uint8(next(generate(denoiser, seeds))))


@pytest.mark.parametrize("steps", [2, 5])
def test_the_stages_end_in_the_samplers_image_after_its_calls(tiny_denoiser, steps):
    denoiser = tiny_denoiser()
    calls = []
    denoiser.backbone.register_forward_hook(lambda *_: calls.append(1))
    found = list(sample_stages(denoiser, SEVEN, None, steps))
    assert [stage["calls"] for stage in found] == [*range(2, 2 * steps, 2), 2 * steps - 1]
    assert len(calls) == found[-1]["calls"]
    assert found[0]["sigma"] == denoiser.sigma_max
    assert np.array_equal(found[-1]["result"], to_uint8(next(generate(denoiser, [7], steps=steps)))[0])


def test_the_first_guess_is_the_image_in_one_call(tiny_denoiser):
    first = next(sample_stages(tiny_denoiser(), SEVEN, None, 4))
    assert np.array_equal(first["guess"], make_images(tiny_denoiser(), [SEVEN], None)[0][0])


def test_what_the_sampler_holds_goes_from_noise_to_the_image(tiny_denoiser):
    found = list(sample_stages(tiny_denoiser(), SEVEN, None, 6))
    assert np.array_equal(found[1]["x"], found[0]["result"])
    noise = to_uint8(noise_for([7], (1, 8, 8)))[0].astype(int)
    assert np.abs(found[0]["x"].astype(int) - noise).max() <= 1  # 80 of 80.006


def test_latent_images_are_decoded_at_the_end_only(tiny_denoiser):
    class Twice:
        """A codec that doubles the side and counts its work."""

        decoded = 0

        def decode(self, latents):
            Twice.decoded += 1
            return latents.repeat_interleave(2, -1).repeat_interleave(2, -2)

        def pixel_shape(self, shape):
            return shape[0], 2 * shape[1], 2 * shape[2]

    *_, last = sample_stages(tiny_denoiser().replace(codec=Twice()), SEVEN, None, 3)
    assert last["result"].shape == (16, 16, 1) and last["guess"].shape == (8, 8, 1) and Twice.decoded == 1
