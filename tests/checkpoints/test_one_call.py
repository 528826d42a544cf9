"""A model that needs many steps is told from a one-step generator by its file, and its user hears of it once."""

from dataclasses import replace

import pytest

import d2o
from d2o.checkpoints.one_call import for_one_call, notice
from d2o.diffusion.families import EDM, Boundary
from d2o.training.networks import networks
from d2o.training.recipes import RECIPES


@pytest.mark.parametrize(
    ("name", "expected"), [("d2o", True), ("scratch", True), ("cd", True), ("pd", True), ("digits-pretrain", False)]
)
def test_what_a_recipe_trains_is_known_again_from_its_file(tiny_denoiser, tmp_path, name, expected):
    recipe = RECIPES[name]
    judge = replace(recipe.discriminator, networks=("tf_efficientnet_lite0",), size=32, width=8, weights="random")
    student = networks(replace(recipe, discriminator=judge, backbone=None), tiny_denoiser()).ema
    d2o.save(tmp_path / "model.safetensors", student)
    assert for_one_call(d2o.load(tmp_path / "model.safetensors")) is expected


def test_without_a_recipe_the_preconditioning_tells(tiny_denoiser):
    denoiser = tiny_denoiser()
    assert isinstance(denoiser.preconditioning, EDM) and not for_one_call(denoiser)
    denoiser.preconditioning = Boundary()
    assert for_one_call(denoiser) and notice(denoiser) is None


def test_the_notice_names_the_remedies(tiny_denoiser):
    assert "d2o finetune" in str(notice(tiny_denoiser()))
    assert str(notice(tiny_denoiser(), "--steps 18 gives its own images")).endswith(
        "; --steps 18 gives its own images."
    )


@pytest.mark.parametrize(
    "recipe",
    [3, "x", [], {}, {"objectives": 3}, {"objectives": {"kind": "x"}}, {"objectives": [3, None]}, {"objectives": []}],
)
def test_a_strange_provenance_tells_nothing(tiny_denoiser, recipe):
    denoiser = tiny_denoiser()
    denoiser.provenance = {"recipe": recipe}
    assert not for_one_call(denoiser)
