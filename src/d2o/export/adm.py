"""ADM networks (our DhariwalUNet) as the UNet2DModel of diffusers, for one noise level.

The two networks take the time in different units. One step has one time only, so its embedding becomes a bias of the
time embedding's first layer, whose weight is zero.
"""

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
ATTENTION = {"norm2": "group_norm", "qkv": "to", "proj": "to_out.0"}


def find_obstacle(network: DhariwalUNet) -> str | None:
    blocks = [block for block in network.modules() if isinstance(block, Block) and block.num_heads]
    if any(norm.num_groups != GROUPS for norm in network.modules() if isinstance(norm, torch.nn.GroupNorm)):
        return f"it has levels of fewer than {4 * GROUPS} channels, whose norms have fewer than {GROUPS} groups"
    if network.config["resampling"] != "block" or network.config["noise_embedding_multiplier"] != 1:
        return "it resamples by convolutions, or its embedding of the time has a width of its own"
    if len({block.out_channels // block.num_heads for block in blocks}) > 1:
        return "its attention heads differ in size"
    return None


def describe(network: DhariwalUNet) -> dict[str, Any]:
    given: Any = network.config
    sizes = [given["resolution"] >> level for level in range(len(given["channel_multipliers"]))]
    attends = [size in given["attention_resolutions"] for size in sizes]
    block = next(block for block in network.modules() if isinstance(block, Block) and block.num_heads)
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
        "attention_head_dim": block.out_channels // block.num_heads,
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,
        "norm_eps": EPS,
        "resnet_time_scale_shift": "scale_shift" if given["adaptive_scale"] else "default",
    }


@torch.no_grad()
def translate_weights(network: DhariwalUNet, time: float) -> dict[str, Tensor]:
    """Return the state dict of the UNet2DModel, for the one `time` that our network takes."""
    modules, state = locate_modules(network), dict[str, Tensor]()
    for name, tensor in network.state_dict().items():
        module, _, kind = name.rpartition(".")
        block, _, layer = module.rpartition(".")
        if name == "map_label.weight":
            state["class_embedding.weight"] = tensor.T.contiguous()
        elif layer == "qkv":  # the channels are ordered (head, channel, which of the three)
            heads: Any = network.get_submodule(block).num_heads
            three = tensor.reshape(heads, -1, 3, *tensor.shape[1:2]).unbind(2)
            for letter, one in zip("qkv", three, strict=True):
                state[f"{modules[module]}_{letter}.{kind}"] = one.flatten(0, 1)
        elif module in modules and kind in ("weight", "bias"):
            is_matrix = layer == "proj" and kind == "weight"
            state[f"{modules[module]}.{kind}"] = tensor.flatten(1) if is_matrix else tensor
    state["time_embedding.linear_1.weight"] = torch.zeros_like(network.map_layer0.weight)
    state["time_embedding.linear_1.bias"] = network.map_layer0(network.map_noise(torch.tensor([time])))[0]
    return state


def locate_modules(network: DhariwalUNet) -> dict[str, str]:
    """Return diffusers' name of each of our modules; of a qkv, the beginning of three."""
    stem, *encoder = network.enc
    first, second, *decoder = network.dec
    residual = {f"dec.{first}": "mid_block.resnets.0", f"dec.{second}": "mid_block.resnets.1"}
    attention = {f"dec.{first}": "mid_block.attentions.0"}
    # Our levels begin with the change of size that brings to them, theirs end with the one that leads on.
    for side, blocks, group, change in (("enc", encoder, "down_blocks", "down"), ("dec", decoder, "up_blocks", "up")):
        level = index = 0
        for block in blocks:
            if block.endswith(f"_{change}"):
                residual[f"{side}.{block}"] = f"{group}.{level}.{change}samplers.0"
                level, index = level + 1, 0
            else:
                residual[f"{side}.{block}"] = f"{group}.{level}.resnets.{index}"
                attention[f"{side}.{block}"] = f"{group}.{level}.attentions.{index}"
                index += 1
    modules = {**OUTER, f"enc.{stem}": "conv_in"}
    for places, layers in ((residual, RESIDUAL), (attention, ATTENTION)):
        modules |= {f"{ours}.{o}": f"{theirs}.{t}" for ours, theirs in places.items() for o, t in layers.items()}
    return modules
