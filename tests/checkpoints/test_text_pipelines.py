"""Text-to-image pipelines: d2o's denoiser of a folder makes the latents that the stock pipeline makes."""

import warnings

import pytest
import torch

import d2o
from d2o.diffusion.denoiser import Guided
from d2o.diffusion.sampling import sample

from .text_pipelines import CASES, SIDE, Telling, make_noise, make_text, open_stock, run_stock, save

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a pipeline's folder by name, made at its first use."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("pipeline")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                save(name, made[name])
        return made[name]

    return get


def walk(name, denoiser, noise, text, steps, scale=1.0):
    """Sample as `generate` does, but for the unit noise from which stock pipelines of noise predictors start."""
    family = denoiser.preconditioning
    if family.kind == "flow":
        sigmas, start = family.sigmas(steps), noise
    else:
        places = range(999, -1, -(1000 // steps))
        sigmas = (*(family.levels[k].item() for k in places), 0.0)
        start = noise * (1 + sigmas[0] ** 2) ** 0.5 / sigmas[0]
    predict = denoiser if scale == 1 else Guided(denoiser, scale)
    with torch.no_grad():
        return sample(lambda x, sigma: predict(x, sigma, text), start, sigmas)


@pytest.mark.parametrize("name", CASES)
def test_one_and_four_steps_are_those_of_the_stock_pipeline(name, folders):
    denoiser, stock = d2o.load(folders(name), config={"sample_size": SIDE}), open_stock(name, folders(name))
    noise, text, negative = make_noise(name), make_text(name, 1), make_text(name, 2)
    assert denoiser.image_shape == tuple(noise.shape[1:])
    for steps, most in zip((1, 4), CASES[name].error, strict=True):
        ours, theirs = walk(name, denoiser, noise, text, steps), run_stock(name, stock, noise, text, steps)
        assert (ours - theirs).abs().max() <= most, steps
    guided = denoiser.replace(reader=Telling(text, negative))
    ours = walk(name, guided, noise, text, 4, 4.0 + CASES[name].more)
    theirs = run_stock(name, stock, noise, text, 4, negative)
    assert (ours - theirs).abs().max() <= CASES[name].guided
    assert (ours - walk(name, guided, noise, text, 4)).abs().max() > 1e-3  # guidance did something
