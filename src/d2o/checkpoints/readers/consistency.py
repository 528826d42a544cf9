"""State dicts of consistency_models (arXiv 2303.01469): the ADM network under other names.

Sizes are read from shapes. The images' size is not in the weights: it follows from the number of levels, as in the
released models. Their attention holds (query, key, value) before (head, channel), ours after.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2o.checkpoints import native
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import name_file

MULTIPLIERS = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
"""The widths of the levels, by which the released models' image sizes are known."""
HEAD_CHANNELS = 64
NARROWEST = 128
TIME_SCALE = 250.0
"""Their networks take 250 ln(sigma) as the time."""
OUTER = {
    "time_embed.0": "map_layer0", "time_embed.2": "map_layer1", "label_emb": "map_label",
    "out.0": "out_norm", "out.2": "out_conv",
}  # fmt: skip
RESIDUAL = {
    "in_layers.0": "norm0", "in_layers.2": "conv0", "emb_layers.1": "affine", "out_layers.0": "norm1",
    "out_layers.3": "conv1", "skip_connection": "skip",
}  # fmt: skip
ATTENTION = {"norm": "norm2", "qkv": "qkv", "proj_out": "proj"}


def recognise(state: Mapping[str, Any]) -> bool:
    """Return whether these are the names of an ADM network as OpenAI writes them."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight"} <= state.keys()


def from_state(state: Mapping[str, Tensor], path: Path) -> Denoiser:
    """Return the denoiser of a consistency model's state dict, in eval mode."""
    with name_file(path):
        spec = describe(state) | {"provenance": {"format": "consistency_models", "file": path.name}}
    made, places = native.build(path, spec), locate_blocks(spec["backbone"])
    tensors = {f"backbone.{rename(name, places)}": convert(name, tensor) for name, tensor in state.items()}
    for name, ours in made.state_dict().items():
        if name.endswith("resample_filter"):  # the mean of 2 x 2 pixels, which their network computes without weights
            tensors[name] = torch.full(ours.shape, 0.25)
    native.fill(path, made, tensors)
    return made.eval()


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the description, as in our own files, of the network that has these weights."""
    width = len(state["input_blocks.0.0.weight"])
    if width < NARROWEST:
        raise ValueError(f"it has {width} channels, and below {NARROWEST} its norms have other groups than d2o's")
    blocks = 1 + max(int(name.split(".")[1]) for name in state if re.match(r"input_blocks\.\d+\.", name))
    embedded, channels = (len(state[f"input_blocks.1.0.{layer}.weight"]) for layer in ("emb_layers.1", "out_layers.3"))
    adaptive_scale = embedded == 2 * channels  # every channel's scale and shift, or its shift alone
    resolution, multipliers, count, firsts = find_levels(state, width, blocks)
    attended = [f"input_blocks.{place}.1.qkv.weight" in state for place in firsts]
    attention = [resolution >> level for level, attends in enumerate(attended) if attends]
    channels = state["out.2.weight"].shape[0]
    classes = len(state["label_emb.weight"]) if "label_emb.weight" in state else 0
    sizes = {"resolution": resolution, "in_channels": channels, "out_channels": channels, "num_classes": classes}
    options = {"channels": width, "channel_multipliers": list(multipliers), "num_blocks": count}
    options |= {"adaptive_scale": adaptive_scale, "attention_resolutions": attention, "dropout": 0.0}
    family = {"kind": "boundary", "time_scale": TIME_SCALE}
    return native.compose({"kind": "dhariwal_unet", **sizes, **options}, family, one_step=True)


def find_levels(state: Mapping[str, Tensor], width: int, blocks: int) -> tuple[int, tuple[int, ...], int, list[int]]:
    """Return resolution, multipliers, blocks a level, and the place of every level's first block."""
    for resolution, multipliers in MULTIPLIERS.items():
        count, rest = divmod(blocks - len(multipliers), len(multipliers))
        firsts = [level * (count + 1) + 1 for level in range(len(multipliers))]
        weights = [state.get(f"input_blocks.{place}.0.out_layers.3.weight") for place in firsts]
        widths = [None if weight is None else len(weight) for weight in weights]
        if not rest and widths == [width * times for times in multipliers]:
            return resolution, multipliers, count, firsts
    raise ValueError("its levels are not those of the released models for 64, 128 or 256 pixels")


def locate_blocks(backbone: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return where each of their blocks is in our network, and where what follows it to double the image is."""
    sizes = [backbone["resolution"] >> level for level in range(len(backbone["channel_multipliers"]))]
    names = [f"{size}x{size}" for size in sizes]
    count, deepest = backbone["num_blocks"], names[-1]
    encoder = [f"enc.{names[0]}_conv"]
    for level, name in enumerate(names):
        encoder += [f"enc.{name}_down"] if level else []
        encoder += [f"enc.{name}_block{index}" for index in range(count)]
    decoder = [f"dec.{name}_block{index}" for name in reversed(names) for index in range(count + 1)]
    above = [f"dec.{name}_up" for name in reversed([names[0], *names[:-1]]) for _ in range(count + 1)]
    places = {f"input_blocks.{place}": (block, "") for place, block in enumerate(encoder)}
    places |= {f"output_blocks.{place}": pair for place, pair in enumerate(zip(decoder, above, strict=True))}
    middle = ("in0", "in0", "in1")  # the second is the first's attention
    return places | {f"middle_block.{place}": (f"dec.{deepest}_{part}", "") for place, part in enumerate(middle)}


def rename(name: str, places: Mapping[str, tuple[str, str]]) -> str:
    """Return our name of one of their weights; a name that is none of theirs stays."""
    module, _, kind = name.rpartition(".")
    if module in OUTER:
        return f"{OUTER[module]}.{kind}"
    match = re.fullmatch(r"((?:in|out)put_blocks\.\d+)\.(\d+)(?:\.(.+))?|(middle_block\.\d+)\.(.+)", module)
    block, up = places.get(match[1] or match[4], ("", "")) if match else ("", "")
    if not match or not block:
        return name
    part = match[3] or match[5]
    if part is None:  # the first convolution has no parts
        return f"{block}.{kind}"
    if part in ATTENTION:
        return f"{block}.{ATTENTION[part]}.{kind}"
    return f"{up if match[2] not in (None, '0') else block}.{RESIDUAL.get(part, part)}.{kind}"


def convert(name: str, tensor: Tensor) -> Tensor:
    """Return one of their weights as our layer holds it."""
    if name.startswith("label_emb."):
        return tensor.T.contiguous()
    if ".qkv." in name and len(tensor) % (3 * HEAD_CHANNELS) == 0:
        parts = tensor.reshape(3, -1, HEAD_CHANNELS, *tensor.shape[1:])  # which of the three, head, channel
        tensor = parts.movedim(0, 2).reshape(tensor.shape)
    if ".qkv.weight" in name or ".proj_out.weight" in name:
        return tensor.reshape(*tensor.shape[:2], 1, 1)  # some versions have one-dimensional convolutions
    return tensor
