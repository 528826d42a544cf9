"""ADM networks (our DhariwalUNet) as the UNet2DModel of diffusers, for one noise level.

The two networks take the time in different units. One step has one time only, so its embedding becomes a bias of the
time embedding's first layer, whose weight is zero.
"""

import re
from typing import Any

import torch
from torch import Tensor

from d2o.backbones.dhariwal_unet import EPS, DhariwalUNet
from d2o.backbones.layers import Block

GROUPS = 32
OUTER = {"map_layer1": "time_embedding.linear_2", "out_norm": "conv_norm_out", "out_conv": "conv_out"}
RESIDUAL = {
    "norm0": "norm1",
    "conv0": "conv1",
    "affine": "time_emb_proj",
    "norm1": "norm2",
    "conv1": "conv2",
    "skip": "conv_shortcut",
}
ATTENTION = {"norm2": "group_norm", "proj": "to_out.0"}


def find_obstacle(network: DhariwalUNet) -> str | None:
    """Return why a UNet2DModel cannot be this network; None when it can."""
    blocks = [block for block in network.modules() if isinstance(block, Block)]
    if any(norm.num_groups != GROUPS for norm in network.modules() if isinstance(norm, torch.nn.GroupNorm)):
        return f"it has levels of fewer than {4 * GROUPS} channels, whose norms have fewer than {GROUPS} groups"
    if len({block.out_channels // block.num_heads for block in blocks if block.num_heads}) > 1:
        return "its attention heads differ in size"
    return None


def describe(network: DhariwalUNet) -> dict[str, Any]:
    """Return the settings of the UNet2DModel."""
    given: Any = network.config
    sizes = [given["resolution"] >> level for level in range(len(given["channel_multipliers"]))]
    attends = [size in given["attention_resolutions"] for size in sizes]
    heads = [block for block in network.modules() if isinstance(block, Block) and block.num_heads]
    return {
        "sample_size": given["resolution"],
        "in_channels": given["in_channels"],
        "out_channels": given["out_channels"],
        "num_class_embeds": given["num_classes"] or None,
        "block_out_channels": [given["channels"] * times for times in given["channel_multipliers"]],
        "layers_per_block": given["num_blocks"],
        "time_embedding_dim": given["channels"] * given["embedding_multiplier"],
        "down_block_types": ["AttnDownBlock2D" if attend else "ResnetDownsampleBlock2D" for attend in attends],
        "up_block_types": ["AttnUpBlock2D" if attend else "ResnetUpsampleBlock2D" for attend in reversed(attends)],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": heads[0].out_channels // heads[0].num_heads,
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,
        "norm_eps": EPS,
        "resnet_time_scale_shift": "scale_shift" if given["adaptive_scale"] else "default",
    }


@torch.no_grad()
def translate_weights(network: DhariwalUNet, time: float) -> dict[str, Tensor]:
    """Return the state dict of the UNet2DModel, for the one `time` that our network takes."""
    given: Any = network.config
    names = locate_blocks(given["resolution"], len(given["channel_multipliers"]))
    state: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        outer, _, kind = name.rpartition(".")
        if name == "map_label.weight":
            state["class_embedding.weight"] = tensor.T.contiguous()
        elif outer in OUTER:
            state[f"{OUTER[outer]}.{kind}"] = tensor
        elif name.startswith(("enc.", "dec.")) and kind != "resample_filter":
            state |= translate_block(name, tensor, names, count_heads(network, name))
    embedding = network.map_layer0(network.map_noise(torch.tensor([time])))[0]
    state["time_embedding.linear_1.weight"] = torch.zeros_like(network.map_layer0.weight)
    state["time_embedding.linear_1.bias"] = embedding
    return state


def count_heads(network: DhariwalUNet, name: str) -> int:
    """Return the attention heads of the block that a parameter belongs to."""
    side, block, *_ = name.split(".")
    module = getattr(network, side)[block]
    return module.num_heads if isinstance(module, Block) else 0


def locate_blocks(resolution: int, levels: int) -> dict[str, tuple[str, str]]:
    """Return for each of our blocks the places of its residual part and of its attention."""

    def pair(group: str, index: int) -> tuple[str, str]:
        return f"{group}.resnets.{index}", f"{group}.attentions.{index}"

    most, last = 64, levels - 1
    names = {f"dec.{resolution >> last}x{resolution >> last}_in{index}": pair("mid_block", index) for index in (0, 1)}
    for level in range(levels):
        size = f"{resolution >> level}x{resolution >> level}"
        down, up = f"down_blocks.{level}", f"up_blocks.{last - level}"
        names |= {f"enc.{size}_block{index}": pair(down, index) for index in range(most)}
        names |= {f"dec.{size}_block{index}": pair(up, index) for index in range(most + 1)}
        # Our levels begin with the change of size that brings to them, theirs end with the one that leads on.
        names[f"enc.{size}_down"] = (f"down_blocks.{level - 1}.downsamplers.0", "")
        names[f"dec.{size}_up"] = (f"up_blocks.{last - level - 1}.upsamplers.0", "")
    return names


def translate_block(name: str, tensor: Tensor, names: dict[str, tuple[str, str]], num_heads: int) -> dict[str, Tensor]:
    """Return what a parameter of a block is called, and looks like, in a UNet2DModel."""
    found = re.fullmatch(r"(enc|dec)\.([^.]+)\.(?:(\w+)\.)?(weight|bias)", name)
    assert found is not None, name
    side, block, layer, kind = found.groups()
    if layer is None:
        return {f"conv_in.{kind}": tensor}
    residual, attention = names[f"{side}.{block}"]
    if layer == "qkv":  # the channels are ordered (head, channel, which of the three)
        three = tensor.reshape(num_heads, -1, 3, *tensor.shape[1:2]).unbind(2)
        return {f"{attention}.to_{letter}.{kind}": one.flatten(0, 1) for letter, one in zip("qkv", three, strict=True)}
    if layer in ATTENTION:
        flat = tensor.flatten(1) if layer == "proj" and kind == "weight" else tensor
        return {f"{attention}.{ATTENTION[layer]}.{kind}": flat}
    return {f"{residual}.{RESIDUAL[layer]}.{kind}": tensor}
