"""The denoising objective: image by image, and equal to its closed form on Gaussian data."""

import pytest
import torch

from d2o.data.augmentation import AUGMENTATION_DIM, Augmentation
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM
from d2o.diffusion.noise import noise_for
from d2o.objectives.denoising import Denoising
from d2o.objectives.objective import Batch, Networks


class Nothing(torch.nn.Module):
    """The network with which EDM's denoiser is exact for data N(0, sigma_data^2)."""

    def forward(self, x, noise, label, augmentation):
        del noise, label, augmentation
        return torch.zeros_like(x)


def batch_of(count, seed=3, start=100):
    x0 = noise_for(range(count), (1, 8, 8)).mul(0.5).clamp(-1, 1)
    return Batch(x0, torch.arange(count) % 3, range(start, start + count), seed)


@pytest.mark.parametrize("augmentation", [None, Augmentation(probability=0.8)])
def test_the_loss_of_an_image_does_not_depend_on_its_batch(tiny_denoiser, augmentation):
    student = tiny_denoiser(classes=3, augmentation_dim=AUGMENTATION_DIM)
    networks, objective, batch = Networks(student, student), Denoising(augmentation=augmentation), batch_of(6)
    together = objective(networks, batch)
    assert together.shape == (6,) and together.isfinite().all()
    for size in (1, 2, 4):
        parts = torch.cat([objective(networks, part) for part in batch.split(size)])
        torch.testing.assert_close(parts, together, rtol=1e-4, atol=1e-5)


def test_the_exact_denoiser_of_gaussian_data_costs_one():
    # E|D(x) - x0|^2 = s^2 d^2 / (s^2 + d^2), and the weight is the inverse: 1 a pixel, whatever sigma.
    student = Denoiser(Nothing(), EDM(0.5), (1, 8, 8))
    count = 3000
    x0 = 0.5 * noise_for(range(10**6, 10**6 + count), (1, 8, 8))
    losses = Denoising()(Networks(student, student), Batch(x0, None, range(count)))
    assert float(losses.mean()) == pytest.approx(1, abs=5 * (2 / (64 * count)) ** 0.5)
    assert float(losses.var()) == pytest.approx(2 / 64, rel=0.2)  # chi-squared of 64 pixels


@pytest.mark.parametrize("shrink", [0.5, 2.0])
def test_a_worse_denoiser_costs_more(shrink):
    x0 = 0.5 * noise_for(range(10**6, 10**6 + 500), (1, 8, 8))
    batch = Batch(x0, None, range(500))
    exact, wrong = (Denoiser(Nothing(), EDM(d), (1, 8, 8)) for d in (0.5, 0.5 * shrink))
    loss = Denoising(sigma_data=0.5)
    assert loss(Networks(wrong, wrong), batch).mean() > 1.05 * loss(Networks(exact, exact), batch).mean()


def test_augmentation_of_probability_zero_only_flips(tiny_denoiser):
    student = tiny_denoiser(classes=3, augmentation_dim=AUGMENTATION_DIM)
    networks, batch = Networks(student, student), batch_of(4)
    still = Augmentation(probability=0.0, x_flip=False)
    torch.testing.assert_close(
        Denoising(augmentation=still)(networks, batch), Denoising()(networks, batch), rtol=1e-4, atol=1e-5
    )
    moved = Denoising(augmentation=Augmentation(probability=1.0))(networks, batch)
    assert not torch.allclose(moved, Denoising()(networks, batch), rtol=1e-3)


def test_the_loss_is_a_function_of_seed_and_index(tiny_denoiser):
    student = tiny_denoiser(classes=3)
    networks, objective = Networks(student, student), Denoising()
    losses = [objective(networks, batch_of(4, *key)) for key in ((3, 100), (3, 100), (4, 100), (3, 101))]
    assert torch.equal(losses[0], losses[1])
    assert not torch.allclose(losses[0], losses[2]) and not torch.allclose(losses[0], losses[3])


@pytest.mark.parametrize("numbers", [{"sigma_deviation": 0}, {"sigma_data": -1}, {"sigma": 1}])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ValueError):
        Denoising(**numbers)
