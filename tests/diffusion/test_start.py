"""A start that fits: a level at which one call of an untrained generator makes images instead of noise."""

import pytest
import torch
from torch import nn

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, VE, VP, Boundary, Epsilon, Flow, Velocity
from d2o.diffusion.noise import noise_for
from d2o.diffusion.start import LOWEST, SHARE, deviation_of, find_start

DATA, ERROR = 0.5, 0.005


class NoisePredictor(nn.Module):
    """The best predictor of the noise in data N(0, DATA^2), with an error of a given deviation."""

    def __init__(self, error=ERROR):
        super().__init__()
        self.error = error

    def forward(self, x, noise, label=None, augmentation=None):
        level = family.levels[noise.long()].float().view(-1, 1, 1, 1)
        best = x * (1 + level**2).sqrt() * level / (level**2 + DATA**2)
        error = torch.roll(noise_for(range(len(x)), x.shape[1:]), 1, 0)
        return best + self.error * error


family = Epsilon()


@pytest.fixture
def predictor():
    return Denoiser(NoisePredictor(), family, (1, 8, 8))


def test_the_deviation_is_that_over_images():
    images = torch.tensor([[1.0, 5.0], [3.0, 5.0]]).view(2, 1, 1, 2)
    assert deviation_of(images) == pytest.approx(1.0)  # variances 2 and 0


def test_the_start_has_a_closed_form(predictor):
    """From sigma, images have an error of ERROR times sigma; the best answer to noise of 80 is nearly 0."""
    assert find_start(predictor, DATA) == pytest.approx(SHARE * DATA / ERROR, rel=0.03)
    assert find_start(predictor, 2 * DATA) == pytest.approx(2 * find_start(predictor, DATA))


@pytest.mark.parametrize(("error", "found"), [(1e-5, 80.0), (0.5, LOWEST), (0.0, 80.0)])
def test_it_stays_within_the_schedule(error, found, predictor):
    assert find_start(predictor.replace(backbone=NoisePredictor(error)), DATA) == found


def test_a_clip_hides_no_error(predictor):
    """Students are not clipped."""
    wild = predictor.replace(backbone=NoisePredictor(0.03))
    assert find_start(wild.replace(clip=1.0)) == find_start(wild)


class Wrong(nn.Module):
    def forward(self, x, noise, label=None, augmentation=None):
        return 3 * x


@pytest.mark.parametrize("family", [EDM(), EDM(sigma_data=30.0), Boundary(), Velocity(), Flow()])
def test_families_that_do_not_multiply_errors_by_the_level_keep_their_start(family):
    assert find_start(Denoiser(Wrong(), family, (1, 8, 8))) == family.sigma_max


@pytest.mark.parametrize("family", [VE(), VP(), Epsilon(sigma_max=1e6)])
def test_predictors_of_noise_start_lower(family):
    assert find_start(Denoiser(Wrong(), family, (1, 8, 8))) < family.sigma_max / 2


def test_one_step_generators_keep_the_start_that_they_were_trained_for(predictor):
    assert find_start(predictor.replace(one_step=True), DATA) == 80.0


def test_predictions_are_clipped_where_that_is_asked(predictor):
    x = 80 * noise_for(range(4), (1, 8, 8))
    wild, tame = predictor(x, 80.0), predictor.replace(clip=0.5)(x, 80.0)
    assert wild.abs().max() > 1 and torch.equal(tame, wild.clamp(-0.5, 0.5))
