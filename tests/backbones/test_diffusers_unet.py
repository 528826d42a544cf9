"""The UNet2DModel of diffusers as a backbone: the same numbers, roles, and no setting that is not understood."""

import sys
from collections import Counter
from typing import Any

import pytest
import torch

from d2o import backbones

pytest.importorskip("diffusers")

SMALL = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "layers_per_block": 1,
}
DDPM = {  # the 32 x 32 network of arXiv 2006.11239
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}


def build(classes: int = 0, size: int = 8, **settings) -> Any:
    sizes = {"resolution": size, "in_channels": 3, "out_channels": 3, "num_classes": classes}
    return backbones.build({"kind": "diffusers_unet", **sizes, "unet": settings})


def inputs(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 5, 500, 999])


@pytest.mark.parametrize("classes", [0, 4])
def test_it_predicts_what_the_original_predicts(classes):
    from diffusers.models.unets.unet_2d import UNet2DModel

    original = UNet2DModel(sample_size=8, num_class_embeds=classes or None, **SMALL).eval()
    network = build(classes, **SMALL).eval()
    network.unet.load_state_dict(original.state_dict(), strict=True)
    x, times = inputs()
    label = torch.tensor([0, 3, 1, 2]) if classes else None
    with torch.no_grad():
        assert torch.equal(network(x, times, label), original(x, times, label).sample)


def test_no_class_adds_nothing():
    network = build(4, **SMALL).eval()
    x, times = inputs()
    with torch.no_grad():
        none = network(x, times)
        assert torch.equal(network(x, times, torch.full((4,), -1)), none)
        assert not torch.equal(network(x, times, torch.tensor([-1, 3, 1, 2])), none)
        network.unet.class_embedding.weight.zero_()
        torch.testing.assert_close(network(x, times, torch.tensor([0, 3, 1, 2])), none)
    with pytest.raises(ValueError, match=r"label 4 .*0 to 3"):
        network(x, times, torch.tensor([0, 3, 1, 4]))


def test_the_share_of_convolutions_and_projections_is_known():
    with torch.device("meta"):
        network = build(size=32, **DDPM)
    counts = Counter()
    for name, parameter in network.named_parameters():
        counts[network.role(name)] += parameter.numel()
    assert sum(counts.values()) == 35_746_307
    assert counts["convolution"] + counts["projection"] == 30_339_712  # 84.9 %
    assert counts["qkv"] == 1_184_256


def test_every_parameter_has_a_role():
    variant = {
        **SMALL,
        "resnet_time_scale_shift": "scale_shift",
        "downsample_type": "resnet",
        "attn_norm_num_groups": 4,
    }
    network = build(4, **{**variant, "upsample_type": "resnet", "down_block_types": ["ResnetDownsampleBlock2D"] * 2})
    roles = {name: network.role(name) for name, _ in network.named_parameters()}
    assert roles["unet.down_blocks.0.downsamplers.0.conv1.weight"] == "convolution"
    assert roles["unet.mid_block.attentions.0.to_out.0.weight"] == "projection"
    assert roles["unet.class_embedding.weight"] == "embedding"
    with pytest.raises(ValueError, match=r"unet\.something"):
        network.role("unet.something.else")


def test_the_output_layer_stays_exact_in_bfloat16():
    network = build(**SMALL).eval()
    seen = []
    network.unet.conv_out.register_forward_hook(lambda _layer, given, made: seen.append((given[0].dtype, made.dtype)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(*inputs())
    assert seen[0][1] == torch.float32


def test_its_config_builds_it_again():
    network = build(4, **SMALL)
    again = backbones.build({"kind": network.kind, **network.config})
    assert again.config == network.config
    assert again.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"down_block_type": []}, "'down_block_type'.*'down_block_types'"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "down_block_types.*DownBlock2D"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type.*positional"),
        ({"block_out_channels": [8, 16, 10**9]}, "block_out_channels.*4096"),
        ({"block_out_channels": [8]}, "block_out_channels.*down_block_types"),
        ({"layers_per_block": True}, "layers_per_block.*1 to 64"),
        ({"dropout": float("nan")}, "dropout.*0"),
        ({"norm_eps": "1e-5"}, "norm_eps.*number"),
    ],
)
def test_a_setting_that_is_not_understood_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**{**SMALL, **settings})


def test_without_diffusers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers.models.unets.unet_2d", None)
    with pytest.raises(ValueError, match=r"pip install .*diffusers"):
        build(**SMALL)
