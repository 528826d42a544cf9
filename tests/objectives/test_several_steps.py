"""A generator of several steps: the walk by renoising is right, and training sees every one of its steps."""

import pytest
import torch

from d2o.diffusion.noise import noise_for
from d2o.diffusion.sampling import generate, sample
from d2o.objectives import Adversarial
from d2o.objectives.objective import Batch
from d2o.objectives.one_step import sample_random_stage

from .gaussian import DEVIATION, SHAPE, Exact, consistent, spread

SIGMAS = (80.0, 5.0, 0.8)


def test_with_the_exact_consistency_function_every_step_has_the_datas_distribution():
    """f maps N(0, d^2 + s^2) to N(0, d^2 + s_min^2), and renoising adds s^2 again: no step spoils the variance."""
    count, student = 4000, Exact(consistent)
    noise = [noise_for(range(k * count, (k + 1) * count), SHAPE).double() for k in range(3)]
    noise[0] *= (spread(80.0) / 80.0**2).sqrt()  # so that the start is exactly data with noise
    for stage in range(3):
        made = sample_random_stage(FloatLevels(student), noise, SIGMAS, [stage] * count, None)  # type: ignore[arg-type]
        error = 4 * DEVIATION * (2 * count * 16) ** -0.5
        assert float(made.std()) == pytest.approx(DEVIATION, abs=error + 0.002**2)


class FloatLevels:
    """Calls a stand-in with one level for all images."""

    def __init__(self, student):
        self.student = student

    def __call__(self, x, sigma, label=None):
        return self.student(x, torch.full((len(x),), sigma).double())


def test_the_last_stage_is_what_sampling_makes(tiny_denoiser):
    student = tiny_denoiser(classes=2)
    noise, label = [noise_for([k, k + 10], (1, 8, 8)) for k in range(3)], torch.tensor([0, 1])
    draws = iter(noise[1:])

    def step(denoise, x, sigma, sigma_next):
        x0 = denoise(x, sigma)
        return x0 + sigma_next * next(draws) if sigma_next else x0

    with torch.no_grad():
        walked = sample(lambda x, sigma: student(x, sigma, label), noise[0], (*SIGMAS, 0.0), step)
        assert torch.equal(sample_random_stage(student, noise, SIGMAS, [2, 2], label), walked)
        first = student(80.0 * noise[0], 80.0, label)
        assert torch.allclose(sample_random_stage(student, noise, SIGMAS, [0, 0], label), first, atol=1e-6)


def test_images_keep_their_places_whatever_their_stages(tiny_denoiser):
    student, label = tiny_denoiser(classes=2), torch.tensor([0, 1, 0, 1])
    noise = [noise_for(range(4 * k, 4 * k + 4), (1, 8, 8)) for k in range(3)]
    with torch.no_grad():
        mixed = sample_random_stage(student, noise, SIGMAS, [2, 0, 1, 0], label)
        for i, stage in enumerate([2, 0, 1, 0]):
            alone = sample_random_stage(student, [row[i : i + 1] for row in noise], SIGMAS, [stage], label[i : i + 1])
            torch.testing.assert_close(mixed[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_stages_are_drawn_alike_and_belong_to_the_image(tiny_denoiser):
    batch = Batch(torch.zeros(3000, 1, 8, 8), None, range(3000))
    stages = batch.choices("generator stage", 3)
    assert all(900 < stages.count(k) < 1100 for k in range(3))
    assert Batch(torch.zeros(1, 1, 8, 8), None, [7]).choices("generator stage", 3) == [stages[7]]


def test_one_step_is_as_it_was(tiny_denoiser):
    student, batch = tiny_denoiser(), Batch(torch.zeros(4, 1, 8, 8), None, range(4))
    with torch.no_grad():
        plain = Adversarial().generate(student, batch, "generator")
        assert torch.equal(plain, student(80.0 * batch.noise("generator"), 80.0))
        several = Adversarial(middle_sigmas=(0.8,)).generate(student, batch, "generator")
        stages = batch.choices("generator stage", 2)
        for i, stage in enumerate(stages):
            assert torch.allclose(several[i], plain[i], atol=1e-5) == (stage == 0)


def test_a_generator_samples_by_its_own_walk_unless_told_otherwise(tiny_denoiser):
    student = tiny_denoiser()
    one = torch.cat(list(generate(student, range(2))))
    asked = torch.cat(list(generate(student, range(2), sampler="renoise", middle_sigmas=(0.8,))))
    student.middle_sigmas = (0.8,)
    assert torch.equal(torch.cat(list(generate(student, range(2)))), asked) and not torch.equal(one, asked)
    assert torch.equal(torch.cat(list(generate(student, range(2), middle_sigmas=()))), one)


@pytest.mark.parametrize("middle", [(80.0,), (0.8, 5.0), (0.8, 0.8), (-1.0,)])
def test_middle_sigmas_that_do_not_fall_are_refused(middle):
    with pytest.raises(ValueError, match="middle_sigmas"):
        Adversarial(sigma=80.0, middle_sigmas=middle)
