"""A start that fits: the largest level at which one call of an untrained generator makes images instead of noise."""

import pytest
import torch
from torch import nn

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import Epsilon, Flow
from d2o.diffusion.noise import PURE_NOISE, noise_for
from d2o.diffusion.start import LEVELS, deviation_of, find_start

DATA, ERROR = 0.5, 0.05


class NoisePredictor(nn.Module):
    """The best predictor of the noise in data N(0, DATA^2), with an error of deviation ERROR."""

    def forward(self, x, noise, label=None, augmentation=None):
        level = family.levels[noise.long()].float().view(-1, 1, 1, 1)
        best = x * (1 + level**2).sqrt() * level / (level**2 + DATA**2)
        error = torch.roll(noise_for(range(len(x)), x.shape[1:]), 1, 0)
        return best + ERROR * error


family = Epsilon()


@pytest.fixture
def predictor():
    return Denoiser(NoisePredictor(), family, (1, 8, 8))


def test_the_deviation_is_that_over_images():
    images = torch.tensor([[1.0, 5.0], [3.0, 5.0]]).view(2, 1, 1, 2)
    assert deviation_of(images) == pytest.approx(1.0)  # variances 2 and 0


def test_the_error_of_a_noise_predictor_grows_with_the_start(predictor):
    """Its images deviate by ERROR times sigma, so they exceed 1.2 times the data from 12 on."""
    found, step = find_start(predictor, DATA), 200 ** (1 / LEVELS)
    assert 12 / step / 1.2 < found < 12 * 1.05
    assert find_start(predictor, 2 * DATA) > found


def test_a_good_model_keeps_its_own_start():
    class Zero(nn.Module):
        def forward(self, x, noise, label=None, augmentation=None):
            return x

    denoiser = Denoiser(Zero(), Flow(), (1, 8, 8))  # one call gives n - n
    assert find_start(denoiser) == PURE_NOISE


def test_predictions_are_clipped_where_that_is_asked(predictor):
    x = 80 * noise_for(range(4), (1, 8, 8))
    wild, tame = predictor(x, 80.0), predictor.replace(clip=1.0)(x, 80.0)
    assert wild.abs().max() > 2 and torch.equal(tame, wild.clamp(-1, 1))
