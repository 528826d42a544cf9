"""The blocks of a network by name and place, and what enters and leaves them while it is called."""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from d2o.backbones import BACKBONES, Backbone

# Of the project's own backbones: the first row (pattern of a module's whole name, place) that matches decides; modules
# that match none are no blocks.
PLACES: tuple[tuple[str, str], ...] = (
    (r"enc\.\d+x\d+_aux_.*", ""),
    (r"dec\.\d+x\d+_aux_(norm|up)", ""),
    (r"dec\.\d+x\d+_aux_conv|out_conv|final_layer|unet\.conv_out", "output"),
    (r"x_embedder|unet\.conv_in", "input"),
    (r"enc\.\d+x\d+_conv", "input"),
    (r"enc\.[^.]+", "encoder"),
    (r"dec\.[^.]+", "decoder"),
    (r"blocks\.\d+", "transformer"),
    (r"unet\.down_blocks\.\d+\.(resnets|attentions|downsamplers)\.\d+", "encoder"),
    (r"unet\.mid_block\.(resnets|attentions)\.\d+", "middle"),
    (r"unet\.up_blocks\.\d+\.(resnets|attentions|upsamplers)\.\d+", "decoder"),
)

BlockMaps = dict[str, tuple[Tensor, Tensor]]
"""Block -> what came in and what went out, as maps [N, C, h, w]."""


def places(network: nn.Module) -> dict[str, str]:
    """Return the place of every block of a network, by module name and in the order of the network's definition.

    A network that is not the project's has its parts as blocks, all of the place "network", and of a part that is the
    project's own that part's blocks.
    """
    prefix = own_prefix(network)
    if prefix is not None:
        names = [name for name, _ in network.named_modules()]
        rows = ((name, next((row[1] for row in PLACES if re.fullmatch(row[0], prefix + name)), "")) for name in names)
        return {name: place for name, place in rows if place}
    found: dict[str, str] = {}
    for name, part in parts(network):
        inside = places(part) if own_prefix(part) is not None else {}
        found |= {f"{name}.{block}": place for block, place in inside.items()} or {name: "network"}
    return found


def own_prefix(network: nn.Module) -> str | None:
    """Return what PLACES has before the names of a network's modules; None for a network that is not the project's."""
    if isinstance(network, Backbone) and network.kind in BACKBONES:
        return ""
    return "unet." if type(network).__name__ == "UNet2DModel" else None  # of diffusers, which may not be installed


def parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield a network's direct parts by name; those of lists one by one."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleDict | nn.ModuleList | nn.Sequential):
            yield from parts(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def block_of(parameter_name: str, blocks: Iterable[str]) -> str:
    """Return the block that a parameter belongs to, or "elsewhere"."""
    inside = [block for block in blocks if parameter_name.startswith(block + ".")]
    return max(inside, key=len) if inside else "elsewhere"


@contextmanager
def watch_blocks(backbone: nn.Module) -> Iterator[BlockMaps]:
    """Give a dictionary with every block's input and output of the last call of the network, in calling order.

    The input is the first argument that is a map; zeros stand for none. Of a block that is called more than once in a
    call of the network, the last call counts. One that is not called, or gives no map, is not in it.
    """
    seen: BlockMaps = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, arguments: tuple, options: dict[str, Any], output: Any) -> None:
            left = next(maps([getattr(output, "sample", output)]), None)
            if left is not None:
                entered = next(maps([*arguments, *options.values()]), torch.zeros_like(left))
                seen.pop(name, None)
                seen[name] = entered, left

        return hook

    modules = {name: backbone.get_submodule(name) for name in places(backbone)}
    handles = [module.register_forward_hook(keep(name), with_kwargs=True) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def maps(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield those of some values, and of lists among them, that are maps, or the tokens of a square one."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from maps(value)
        elif isinstance(value, Tensor) and value.ndim == 4:
            yield value.detach()
        elif (
            isinstance(value, Tensor)
            and value.ndim == 3
            and (side := math.isqrt(value.shape[1])) ** 2 == value.shape[1]
        ):
            yield value.detach().transpose(1, 2).unflatten(2, (side, side))
