"""The full-size presets fit together: every turn of every recipe, as shapes on the meta device."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from full_size import PRESETS, rehearse  # type: ignore[import-not-found]

# Some that differ most; all of them are a matter of benchmarks/full_size.py --meta.
CHOSEN = {
    "cifar10-d2o-f": (56_395_523, {"student", "discriminator", "r1"}),
    "cifar10-d2o-stylegan2": (56_395_523, {"student", "discriminator", "r1"}),
    "cifar10-ctm": (56_395_523 + 16 * 256, {"student"}),
    "imagenet64-d2o-f": (295_899_267, {"student", "discriminator", "r1"}),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_a_preset_fits_together_at_full_size(name: str) -> None:
    found = rehearse(name)
    assert (found.share.total, set(found.turns)) == CHOSEN[name]
    assert (found.discriminator > 0) == ("r1" in found.turns)
    assert found.operations > 1e10


def test_images_in_two_steps_cost_half_a_call_more() -> None:
    one, two = (rehearse(name).operations for name in ("cifar10-d2o", "cifar10-d2o-2step"))
    call = 2 * 10.7e9  # of NCSN++
    assert two - one == pytest.approx(call, rel=0.1)


def test_every_preset_has_a_network() -> None:
    assert {"cifar10-scratch", "ffhq64-d2o-f", "afhqv2-64-d2o", "dit-d2o-f", "cifar10-pretrain"} <= set(PRESETS)


def test_an_unknown_name_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"cifar10-d20.*cifar10-d2o"):
        rehearse("cifar10-d20")
