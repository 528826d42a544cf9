"""What the page draws is what the library generates, and its counts are true."""

import numpy as np
import pytest
import torch

from d2o.app.generation import LARGEST, in_one_call, stages
from d2o.data.files import to_uint8
from d2o.diffusion.noise import noise_for
from d2o.diffusion.sampling import generate


def test_one_call_is_the_one_step_generator(tiny_denoiser):
    denoiser, seeds = tiny_denoiser(classes=3), [4, 5, 9]
    labels = torch.tensor([seed % 3 for seed in seeds])
    made = in_one_call(denoiser, noise_for(seeds, denoiser.image_shape), labels)
    assert np.array_equal(made.images, to_uint8(next(generate(denoiser, seeds))))
    assert made.calls == 1 and made.seconds > 0


@pytest.mark.parametrize("steps", [2, 5])
def test_the_stages_end_in_the_samplers_image_after_its_calls(tiny_denoiser, steps):
    denoiser = tiny_denoiser()
    calls = []
    denoiser.backbone.register_forward_hook(lambda *_: calls.append(1))
    found = list(stages(denoiser, noise_for([7], denoiser.image_shape), None, steps))
    assert [stage.calls for stage in found] == [*range(2, 2 * steps, 2), 2 * steps - 1]
    assert len(calls) == found[-1].calls
    assert found[0].sigma == denoiser.sigma_max and found[-1].sigma_next == 0
    assert np.array_equal(found[-1].result, to_uint8(next(generate(denoiser, [7], steps=steps)))[0])


def test_the_first_guess_is_the_untuned_image_in_one_call(tiny_denoiser):
    denoiser, noise = tiny_denoiser(), noise_for([7], (1, 8, 8))
    first = next(stages(denoiser, noise, None, 4))
    assert np.array_equal(first.guess, in_one_call(denoiser, noise, None).images[0])


def test_what_the_walk_holds_goes_from_noise_to_the_image(tiny_denoiser):
    found = list(stages(tiny_denoiser(), noise_for([7], (1, 8, 8)), None, 6))
    assert np.array_equal(found[1].x, found[0].result)
    noise = to_uint8(noise_for([7], (1, 8, 8)))[0].astype(int)
    assert np.abs(found[0].x.astype(int) - noise).max() <= 1  # 80 of 80.006


def test_latent_images_are_decoded_at_the_end_only(tiny_denoiser):
    class Twice:
        """A codec that doubles the side and counts its work."""

        decoded = 0

        def decode(self, latents):
            Twice.decoded += 1
            return latents.repeat_interleave(2, -1).repeat_interleave(2, -2)

        def pixel_shape(self, shape):
            return shape[0], 2 * shape[1], 2 * shape[2]

    denoiser = tiny_denoiser()
    denoiser.codec = Twice()  # type: ignore[assignment]
    *_, last = stages(denoiser, noise_for([7], (1, 8, 8)), None, 3)
    assert last.result.shape == (16, 16, 1) and last.guess.shape == (8, 8, 1) and Twice.decoded == 1


def test_too_many_images_at_once_are_refused_before_any_is_made(tiny_denoiser):
    denoiser = tiny_denoiser()
    noise = torch.zeros(1, 1, 8, 8).expand(LARGEST // 64 + 1, 1, 8, 8)
    with pytest.raises(ValueError, match="too many at once; it may be 262144"):
        in_one_call(denoiser, noise, None)
