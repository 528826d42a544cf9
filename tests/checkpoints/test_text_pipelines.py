"""Text-to-image pipelines: d2o's denoiser of a folder makes the latents that the stock pipeline makes."""

import json
import shutil
import warnings

import pytest
import torch

import d2o
from d2o.cli.main import run
from d2o.diffusion.denoiser import Guided
from d2o.diffusion.sampling import sample
from d2o.errors import CheckpointError
from refusal import refused

from .text_pipelines import CASES, SIDE, N, Telling, make_noise, make_text, open_stock, run_stock, save

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


def test_inspect_tells_shares_by_role_and_what_d2o_f_freezes(folders, capsys):
    assert run(["inspect", str(folders("SD3")), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["frozen_share"] == pytest.approx(sum(found["shares"][role] for role in found["d2o_f"]["roles"]))
    assert set(found["d2o_f"]["roles"]) == {"projection", "mlp", "modulation"}
    assert run(["inspect", str(folders("SD3"))]) == 0
    assert "modulation" in capsys.readouterr().out


def test_the_network_s_folder_alone_is_the_same_model(folders):
    whole, alone = d2o.load(folders("SD3")), d2o.load(folders("SD3") / "transformer")
    x, text = make_noise("SD3"), make_text("SD3", 1)
    with torch.no_grad():
        assert torch.equal(whole(x, 2.0, text), alone(x, 2.0, text))


def test_a_text_is_a_condition_of_generate(folders):
    model, text = d2o.load(folders("SD3")), make_text("SD3", 1)
    (images,) = d2o.generate(model, range(N), condition=text)
    (second,) = d2o.generate(model, [1], condition=text[1:])
    assert torch.allclose(images[1:], second, atol=1e-5) and images.shape == (N, *model.image_shape)
    with refused("pipeline", "Text"):
        list(d2o.generate(model, [0], condition="a red square"))
    with refused("pipeline", "Text"):
        list(d2o.generate(model, [0]))


def test_what_cannot_be_used_of_a_pipeline_is_one_sentence(folders, tmp_path):
    def copy(name, **changes):
        folder = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folders(name), folder)
        file = next(folder / part / "config.json" for part in ("unet", "transformer") if (folder / part).is_dir())
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return folder

    with refused("AuraFlowTransformer2DModel", "SD3Transformer2DModel", "UNet2DConditionModel", error=CheckpointError):
        d2o.load(copy("SD3", _class_name="AuraFlowTransformer2DModel"))
    with refused("num_layers", error=CheckpointError):
        d2o.load(copy("SD3", num_layers=10**9))
    with refused("does not fit", error=CheckpointError):
        d2o.load(copy("SD3", in_channels=9))
    with refused("does not fit", error=CheckpointError):
        d2o.load(copy("SD3", num_layers=3))
    with refused("sample_size", "config", error=CheckpointError):
        d2o.load(folders("SD3"), config={"num_layers": 2})
    with refused("time_cond_proj_dim", error=CheckpointError):
        d2o.load(copy("SD 1.5", time_cond_proj_dim=8))
