"""The blocks of a network by name and place, and what passes through them while it is called."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

OUTPUT = "output"
"""The place of the block that gives the network's output."""
# The first row (pattern of a module's whole name, place) that matches decides; modules that match none are no blocks.
PLACES: tuple[tuple[str, str], ...] = (
    (r"enc\.\d+x\d+_aux_.*", ""),
    (r"dec\.\d+x\d+_aux_(norm|up)", ""),
    (r"dec\.\d+x\d+_aux_conv|out_conv|final_layer|unet\.conv_out", OUTPUT),
    (r"x_embedder|unet\.conv_in", "input"),
    (r"enc\.\d+x\d+_conv", "input"),
    (r"enc\.[^.]+", "encoder"),
    (r"dec\.[^.]+", "decoder"),
    (r"blocks\.\d+", "transformer"),
    (r"unet\.down_blocks\.\d+\.(resnets|attentions|downsamplers)\.\d+", "encoder"),
    (r"unet\.mid_block\.(resnets|attentions)\.\d+", "middle"),
    (r"unet\.up_blocks\.\d+\.(resnets|attentions|upsamplers)\.\d+", "decoder"),
)
ELSEWHERE = "network"
"""The place of the blocks of an unknown network: its parts, with those of lists taken one by one."""
LISTS = (nn.ModuleDict, nn.ModuleList, nn.Sequential)

Seen = dict[str, tuple[Tensor, Tensor]]
"""Block -> what came in and what went out, as maps [N, C, h, w]."""


def places(backbone: nn.Module) -> dict[str, str]:
    """Return the place of every block of a network, by module name and in the order of the network's definition."""
    found: dict[str, str] = {}
    for name, _ in backbone.named_modules():
        row = next((place for pattern, place in PLACES if re.fullmatch(pattern, name)), "")
        if row:
            found[name] = row
    return found or dict.fromkeys(parts(backbone), ELSEWHERE)


def parts(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Yield the names of a network's direct parts; those of lists one by one."""
    for name, child in module.named_children():
        if isinstance(child, LISTS):
            yield from parts(child, f"{prefix}{name}.")
        else:
            yield prefix + name


def block_of(parameter_name: str, blocks: dict[str, str]) -> str:
    """Return the block that a parameter belongs to, or "elsewhere"."""
    inside = [block for block in blocks if parameter_name.startswith(block + ".")]
    return max(inside, key=len) if inside else "elsewhere"


@contextmanager
def taps(backbone: nn.Module) -> Iterator[Seen]:
    """Give a dictionary that holds, after each call of the network, every block's input and output."""
    seen: Seen = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, arguments: tuple, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
            if arguments and isinstance(output, Tensor) and output.ndim in (3, 4):
                seen[name] = as_map(arguments[0].detach()), as_map(output.detach())

        return hook

    handles = [backbone.get_submodule(name).register_forward_hook(keep(name)) for name in places(backbone)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(backbone: nn.Module, block: str, change: Any) -> Iterator[None]:
    """Replace the output of one block by `change` of it, a function of maps [N, C, h, w]."""

    def hook(_: nn.Module, __: tuple, output: Any) -> Any:
        return as_tokens(change(as_map(output)), output) if isinstance(output, Tensor) else output

    handle = backbone.get_submodule(block).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def as_map(value: Tensor) -> Tensor:
    """Return tokens [N, side * side, C], row by row, as a map [N, C, side, side]; maps stay as they are."""
    if value.ndim == 4:
        return value
    side = math.isqrt(value.shape[1])
    if side**2 != value.shape[1]:
        raise ValueError(f"{value.shape[1]} tokens are no square map: this network's blocks cannot be seen as images.")
    return value.transpose(1, 2).unflatten(2, (side, side))


def as_tokens(value: Tensor, like: Tensor) -> Tensor:
    """Return a map in the layout of `like`: the inverse of `as_map`."""
    return value if like.ndim == 4 else value.flatten(2).transpose(1, 2)


def sizes(backbone: nn.Module, call: Any) -> dict[str, tuple[int, int]]:
    """Return the size (h, w) of every block's output in one call of the network, made by `call`."""
    with torch.no_grad(), taps(backbone) as seen:
        call()
    return {name: (output.shape[-2], output.shape[-1]) for name, (_, output) in seen.items()}
