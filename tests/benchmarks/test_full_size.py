"""The full-size presets fit together: every turn of every recipe, as shapes on the meta device."""

import sys
from functools import cache
from pathlib import Path

import pytest

from d2o.discriminators import Projected
from d2o.planning.text_networks import LENGTHS, Published

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from full_size import PRESETS, SHALLOW, TEXT, make_shallow, rehearse

# Some that differ most; all of them are a matter of benchmarks/full_size.py --meta.
CHOSEN = {
    "cifar10-d2o": (56_395_523, {"student", "discriminator", "r1"}),
    "cifar10-d2o-stylegan2": (56_395_523, {"student", "discriminator", "r1"}),
    "cifar10-ctm": (56_395_523 + 16 * 256, {"student"}),
    "imagenet64-d2o-f": (295_899_267, {"student", "discriminator", "r1"}),
}

once = cache(rehearse)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_preset_fits_together_at_full_size(name: str) -> None:
    found = once(name)
    assert (found.share.total, set(found.turns)) == CHOSEN[name]
    assert (found.discriminator > 0) == ("r1" in found.turns)
    assert found.operations > 1e10


def test_images_in_two_steps_cost_half_a_call_more() -> None:
    one, two = (once(name).operations for name in ("cifar10-d2o", "cifar10-d2o-2step"))
    call = 2 * 10.7e9  # of NCSN++
    assert two - one == pytest.approx(call, rel=0.1)


def test_every_preset_has_a_network() -> None:
    assert {"cifar10-scratch", "ffhq64-d2o-f", "afhqv2-64-d2o", "dit-d2o-f", "cifar10-pretrain"} <= set(PRESETS)


def test_an_unknown_name_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"cifar10-d20.*cifar10-d2o"):
        rehearse("cifar10-d20")


UNET = {
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
TINY = {  # on top of SHALLOW
    "coco256": UNET,
    "sd15": UNET,
    "sdxl": {**UNET, "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80},
    "sd3": {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "joint_attention_dim": 32,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 32,
        "pos_embed_max_size": 16,
    },
    "sana": {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": 32,
        "sample_size": 4,
    },
    "flux": {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": [4, 4, 8],
    },
}
JUDGE = Projected(networks=("tf_efficientnet_lite0",), size=32, width=16, weights="random")


def make_tiny(name: str) -> Published:
    row = make_shallow(name)
    assert row is not None and row.codec is not None and row.latents is not None
    widths = {key: value for key, value in row.codec.settings.items() if key.endswith("block_out_channels")}
    narrow = {**row.codec.settings, **{key: [8] * (len(value) - 1) + [32] for key, value in widths.items()}}
    narrow["attention_head_dim" if "attention_head_dim" in narrow else "norm_num_groups"] = 4
    settings = {**row.settings, **TINY[name.removesuffix("-d2o-f")]}
    return row._replace(settings=settings, codec=row.codec._replace(settings=narrow), latents=(row.latents[0], 4, 4))


@pytest.mark.parametrize("name", TEXT)
def test_a_text_to_image_recipe_takes_real_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same classes, narrow, on latents of 4x4, told random text; D2O-F's rules freeze most of them."""
    network = make_tiny(name)
    monkeypatch.setitem(LENGTHS, network.network, 5)
    found = rehearse(name, "cpu", network=network, discriminator=JUDGE, precision="float32")
    assert set(found.losses) == {"student", "discriminator", "r1"}
    assert all(0 < loss < 100 for loss in found.losses.values())
    assert 0.2 < found.share.frozen / found.share.total < 0.95


def test_the_shallow_networks_differ_in_depth_and_width_alone() -> None:
    for name, (settings, _) in SHALLOW.items():
        assert {
            key for key in settings if not key.startswith(("num_", "block_out", "layers_", "transformer_layers"))
        } <= {
            "attention_head_dim",
            "down_block_types",
            "up_block_types",
        }, name
