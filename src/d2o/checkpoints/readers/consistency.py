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
from d2o.checkpoints.native import rows
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import name_file

MULTIPLIERS = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
"""The widths of the levels, by which the released models' image sizes are known."""
HEAD_CHANNELS = 64
NARROWEST = 128
TIME_SCALE = 250.0
"""Their networks take 250 ln(sigma) as the time."""
STEM = "input_blocks.0.0.weight"
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
    return {"time_embed.0.weight", STEM, "middle_block.1.qkv.weight"} <= state.keys()


def from_state(state: Mapping[str, Tensor], path: Path, family: str | None = None) -> Denoiser:
    with name_file(path):
        spec = describe(state) | {"provenance": {"format": "consistency_models", "file": path.name}}
        if family is None:
            check_family(state, path.name)
    denoiser = native.build(path, spec)
    modules = locate_modules(denoiser.backbone)
    tensors = {f"backbone.{native.rename(name, modules)}": convert(name, tensor) for name, tensor in state.items()}
    for name, ours in denoiser.state_dict().items():
        if name.endswith("resample_filter"):  # the mean of 2 x 2 pixels, which their network computes without weights
            tensors[name] = torch.full(ours.shape, 0.25)
    native.fill(path, denoiser, tensors)
    return denoiser.eval()


def check_family(state: Mapping[str, Tensor], name: str) -> None:
    """Raise a ValueError for networks that have the same weights, but predict something else."""
    remedy = "if it is a consistency model, `d2o convert FILE OUT.safetensors --family consistency` reads it"
    if state["middle_block.1.qkv.weight"].dim() != 4:
        raise ValueError(f"it is guided-diffusion's network (ADM), which predicts noise and is not read yet; {remedy}")
    if re.search(r"(?<![a-z])edm", name.lower()):
        raise ValueError(f"by its name it is an EDM teacher of many steps, which is not read yet; {remedy}")


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the description, as in our own files, of the network that has these weights."""
    width, channels, outputs = rows(state, STEM), rows(state, STEM, 1), rows(state, "out.2.weight")
    if outputs != channels:
        found = f"{channels} input and {outputs} output channels"
        raise ValueError(f"it has {found}: networks of guided-diffusion (ADM), which predict noise, are not read yet")
    if width < NARROWEST:
        raise ValueError(f"it has {width} channels, and below {NARROWEST} its norms have other groups than d2o's")
    blocks = 1 + max(int(name.split(".")[1]) for name in state if re.match(r"input_blocks\.\d+\.", name))
    embedded, shifted = (rows(state, f"input_blocks.1.0.{layer}.weight") for layer in ("emb_layers.1", "out_layers.3"))
    resolution, multipliers, count, firsts = find_levels(state, width, blocks)
    attends = [f"input_blocks.{place}.1.qkv.weight" in state for place in firsts]
    backbone = {
        "kind": "dhariwal_unet",
        "resolution": resolution,
        "in_channels": channels,
        "out_channels": channels,
        "num_classes": rows(state, "label_emb.weight") if "label_emb.weight" in state else 0,
        "channels": width,
        "channel_multipliers": list(multipliers),
        "num_blocks": count,
        "adaptive_scale": embedded == 2 * shifted,  # every channel's scale and shift, or its shift alone
        "attention_resolutions": [resolution >> level for level, attend in enumerate(attends) if attend],
        "dropout": 0.0,
    }
    return native.compose(backbone, {"kind": "boundary", "time_scale": TIME_SCALE}, one_step=True)


def find_levels(state: Mapping[str, Tensor], width: int, blocks: int) -> tuple[int, tuple[int, ...], int, list[int]]:
    """Return resolution, multipliers, blocks a level, and the place of every level's first block."""
    for resolution, multipliers in MULTIPLIERS.items():
        count, rest = divmod(blocks - len(multipliers), len(multipliers))
        firsts = [level * (count + 1) + 1 for level in range(len(multipliers))]
        names = [f"input_blocks.{place}.0.out_layers.3.weight" for place in firsts]
        widths = [rows(state, name) if name in state else 0 for name in names]
        if not rest and widths == [width * times for times in multipliers]:
            return resolution, multipliers, count, firsts
    raise ValueError("its levels are not those of the released models for 64, 128 or 256 pixels")


def locate_modules(network: Any) -> dict[str, str]:
    """Return our name of each of their modules that have weights."""
    stem, *encoder = (f"enc.{name}" for name in network.enc)
    first, second, *decoder = (f"dec.{name}" for name in network.dec)
    residual = {f"input_blocks.{place}.0": block for place, block in enumerate(encoder, 1)}
    attention = {f"input_blocks.{place}.1": block for place, block in enumerate(encoder, 1)}
    residual |= {"middle_block.0": first, "middle_block.2": second}
    attention["middle_block.1"] = first
    place = -1
    for block in decoder:
        if block.endswith("_up"):  # with them it ends the block before, after its attention if it has one
            residual |= {f"output_blocks.{place}.{part}": block for part in (1, 2)}
        else:
            place += 1
            residual[f"output_blocks.{place}.0"] = attention[f"output_blocks.{place}.1"] = block
    modules = {**OUTER, "input_blocks.0.0": stem}
    for blocks, layers in ((residual, RESIDUAL), (attention, ATTENTION)):
        modules |= {f"{theirs}.{t}": f"{ours}.{o}" for theirs, ours in blocks.items() for t, o in layers.items()}
    return modules


def convert(name: str, tensor: Tensor) -> Tensor:
    """Return one of their weights in the shape and order of our layer's."""
    if name.startswith("label_emb.") and tensor.dim() == 2:
        return tensor.T.contiguous()
    if ".qkv." in name and tensor.dim() and len(tensor) % (3 * HEAD_CHANNELS) == 0:
        parts = tensor.unflatten(0, (3, -1, HEAD_CHANNELS))  # which of the three, head, channel
        tensor = parts.movedim(0, 2).flatten(0, 2)
    if name.endswith((".qkv.weight", ".proj_out.weight")) and tensor.dim() == 3 and tensor.shape[2] == 1:
        return tensor.unsqueeze(3)  # some versions have one-dimensional convolutions
    return tensor
