"""Recipes: through JSON and back, and errors that name the remedy."""

import json
import math
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2o.data.augmentation import Augmentation
from d2o.discriminators import Projected
from d2o.objectives.adversarial import Adversarial
from d2o.objectives.denoising import Denoising
from d2o.training.freezing import CONVOLUTIONS
from d2o.training.recipe import Recipe, change, from_dict, to_dict
from d2o.training.recipes import D2O, D2O_F, PRETRAIN, RECIPES, SCRATCH, STAGES, find_any, find_recipe
from refusal import refused

RATES = st.floats(1e-12, 1e6)
COUNTS = st.integers(1, 10**12)


def through_json(recipe):
    return from_dict(json.loads(json.dumps(to_dict(recipe))))


@pytest.mark.parametrize("name", [*RECIPES, *STAGES])
def test_every_named_recipe_survives_json(name):
    recipe = find_any(name)
    assert through_json(recipe) == recipe == {**RECIPES, **STAGES}[name]


@given(
    st.builds(
        Recipe,
        objectives=st.lists(
            st.builds(Adversarial, weight=RATES, r1=RATES, r1_every=COUNTS, fresh_fakes=st.booleans())
            | st.builds(Denoising, weight=RATES, augmentation=st.none() | st.just(Augmentation(0.3, rotation=False))),
            min_size=1,
            max_size=2,
            unique_by=lambda objective: objective.kind,
        ).map(tuple),
        duration=COUNTS,
        batch_size=COUNTS,
        micro_batch_size=st.none() | COUNTS,
        frozen=st.lists(st.text(max_size=9), max_size=3).map(tuple),
        backbone=st.none() | st.just({"kind": "song_unet", "channel_multipliers": [1, 2]}),
        discriminator=st.builds(Projected, size=COUNTS, networks=st.lists(st.text(), min_size=1).map(tuple)),
        learning_rate=RATES,
        ema_ramp=st.none() | RATES,
        seed=st.integers(0, 2**32 - 1),
    )
)
def test_any_recipe_survives_json(recipe):
    assert through_json(recipe) == recipe


def test_the_story_is_one_line_a_recipe():
    assert replace(D2O, frozen=CONVOLUTIONS) == D2O_F
    assert replace(D2O, pretrained=False) == SCRATCH
    assert [objective.kind for objective in PRETRAIN.objectives] == ["denoising"] and not PRETRAIN.pretrained
    assert D2O.needs == {"discriminator"} and PRETRAIN.needs == set()


def test_recipes_of_the_paper_differ_from_d2o_by_what_they_are_named_for():
    def differing(name):
        one, other = to_dict(RECIPES[f"cifar10-{name}"]), to_dict(RECIPES["cifar10-d2o"])
        return {key for key in one if one[key] != other[key]}

    expected = {"d2o-f": {"frozen"}, "scratch": {"pretrained"}, "cd": {"objectives", "betas"}, "cd-gan": {"objectives"}}
    expected |= {"d2o-relativistic": {"objectives"}}
    expected |= {"d2o-2step": {"objectives"}, "d2o-hinge": {"objectives"}, "d2o-perceptual": {"discriminator"}}
    assert {name: differing(name) for name in expected} == expected
    for name in ("channel", "unprojected"):
        one, usual = RECIPES[f"cifar10-d2o-{name}"], RECIPES["cifar10-d2o"]
        assert replace(one, discriminator=replace(one.discriminator, projection="full")) == usual


def test_distillation_beside_the_gan_weighs_as_in_the_released_code():
    for name in ("pd", "cd", "ctm", "rcd"):
        distilled, gan = RECIPES[f"cifar10-{name}-gan"].objectives
        assert (distilled.weight, gan.weight) == (1 / 64, 1.0)  # theirs: a sum over 64 images beside a mean
        assert replace(distilled, weight=1.0) == RECIPES[f"cifar10-{name}"].objectives[0]


def test_a_recipe_is_frozen():
    with pytest.raises(FrozenInstanceError):
        D2O.duration = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("path", "value", "hint"),
    [
        ("learning_rat", 1.0, "learning_rate"),
        ("objectives.0.weigth", 1.0, "weight"),
        ("objectives.1.r1", 1.0, "0"),
        ("objectives.r1", 1.0, "0"),
        ("discriminator.widht", 3, "width"),
        ("duration.images", 3, "duration.images"),
        ("", 3, "''"),
        ("data.count", 3, "not set"),
    ],
)
def test_an_unknown_path_names_the_nearest(path, value, hint):
    with refused(repr(path), hint):
        change(D2O, path, value)


OF_TWO_SIZES = (("consistency", 64), ("trajectory", 32))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"duratoin": 3}, ("duratoin", "'duration'")),
        ({"discriminator": {"widht": 3}}, ("discriminator.widht", "'width'")),
        ({"data": "techer"}, ("data.kind", "'teacher'")),
        ({"data": {"kind": "teacher", "count": 0}}, ("data.count",)),
        ({"objectives": [{"kind": "adversarial", "r1_evry": 3}]}, ("r1_evry", "'r1_every'")),
        ({"objectives": [{"kind": "adverserial"}]}, ("objectives.0", "'adversarial'")),
        ({"objectives": []}, ("objectives",)),
        ({"objectives": None}, ("objectives",)),
        ({"batch_size": -1, "seed": -1}, ("batch_size", "seed")),
        ({"objectives": [{"kind": "adversarial"}] * 2}, ("adversarial", "twice")),
        ({"objectives": [{"kind": "progressive"}, {"kind": "trajectory"}]}, ("progressive", "teacher", "trajectory")),
        ({"objectives": [{"kind": "progressive"}], "duration": 256, "batch_size": 64}, ("duration", "448")),
        (
            {"objectives": [{"kind": k, "distance": {"kind": "lpips", "size": s}} for k, s in OF_TWO_SIZES]},
            ("consistency", "trajectory", "perceptual"),
        ),
    ],
)
def test_a_wrong_recipe_names_the_place_and_the_remedy(values, names):
    with refused(*names):
        from_dict({**to_dict(D2O), **values})


POSITIVE_WHOLE = ["duration", "batch_size", "micro_batch_size", "objectives.0.r1_every"]
POSITIVE = ["learning_rate", "discriminator_learning_rate", "ema_half_life", "ema_ramp", "objectives.0.sigma"]


BAD = [
    *((path, value) for path in POSITIVE_WHOLE for value in (0, -5, True, 2.5, "many", math.inf, math.nan)),
    *((path, value) for path in POSITIVE for value in (0, -1e-3, True, "fast", math.inf, math.nan)),
    ("objectives.0.r1", -1e-9),
    ("objectives.0.weight", True),
    ("objectives.0.weight", math.nan),
    ("betas", [0.0, 1.0]),
    ("betas", [-0.1, 0.9]),
    ("betas", [0.9]),
    ("seed", -1),
    ("seed", True),
    ("pretrained", "yes please"),
    ("frozen", "norm"),
    ("precision", "float16"),
    ("learning_rate_decay", "exponential"),
]


@pytest.mark.parametrize(("path", "value"), BAD)
def test_bad_values_are_refused_by_name(path, value):
    with refused(path.split(".")[-1]):
        change(D2O, path, value)


def test_numbers_may_be_words_as_yaml_reads_them():
    assert change(D2O, "objectives.0.r1", "1e-4") == change(D2O, "objectives.0.r1", 1e-4)
    assert change(D2O, "learning_rate", "2e-4").learning_rate == 2e-4


def test_change_reaches_every_depth_and_leaves_the_rest():
    assert change(D2O, "duration", 5) == replace(D2O, duration=5)
    assert change(D2O, "objectives.0.r1", 0.5) == replace(D2O, objectives=(Adversarial(r1=0.5),))
    assert change(D2O, "discriminator.width", 16) == replace(D2O, discriminator=Projected(width=16))
    assert change(change(D2O, "backbone", {"kind": "song_unet"}), "backbone.kind", "adm").backbone == {"kind": "adm"}


def test_an_unknown_name_names_the_nearest():
    with refused("digit-d2o-f", "'digits-d2o-f'"):
        find_recipe("digit-d2o-f")


def test_rounds_are_parts_of_a_run_that_begin_with_an_iteration():
    rounds = replace(RECIPES["pd"], duration=7000, batch_size=64)
    begins = [start for start in range(0, 7000, 64) if rounds.span(start)[0] == start]
    assert begins == [0, 1024, 2048, 3008, 5056]  # 1000, 2000, 3000 and 5000, up to the next iteration
    assert [rounds.span(start)[1] for start in begins] == [*begins[1:], 7000]
    assert D2O.span(0) == D2O.span(100_000) == (0, 200_000)
