"""The blocks of a network by name and place, and what enters and leaves them while it is called."""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from d2o.backbones import Backbone, is_ours

# Of d2o's own backbones: the first row (pattern of a module's whole name, place) that matches decides; modules that
# match none are no blocks.
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
"""Block -> its input and its output, as maps [N, C, h, w]."""


def places(network: nn.Module) -> dict[str, str]:
    """Return the place of every block of a network, by module name and in the order of the network's definition.

    A network that is not d2o's has its parts as blocks, all of the place "network", and of a part that is d2o's own
    that part's blocks.
    """
    prefix = own_prefix(network)
    if prefix is not None:
        rows = {name: place_of(prefix + name) for name, _ in network.named_modules()}
        return {name: place for name, place in rows.items() if place}
    found: dict[str, str] = {}
    for name, part in parts(network):
        inside = places(part) if own_prefix(part) is not None else {}
        found |= {f"{name}.{block}": place for block, place in inside.items()} or {name: "network"}
    return found


def place_of(module_name: str) -> str:
    return next((place for pattern, place in PLACES if re.fullmatch(pattern, module_name)), "")


def own_prefix(network: nn.Module) -> str | None:
    """Return what PLACES has before the names of a network's modules; None for a network that is not d2o's."""
    if isinstance(network, Backbone) and is_ours(network.kind):
        return ""
    return "unet." if type(network).__name__ == "UNet2DModel" else None  # of diffusers, which may not be installed


def parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    children = dict(module.named_children())
    wraps = isinstance(module, Backbone) and len(children) == 1
    for name, child in children.items():
        if isinstance(child, nn.ModuleDict | nn.ModuleList | nn.Sequential) or (wraps and own_prefix(child) is None):
            yield from parts(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def block_of(parameter_name: str, blocks: Iterable[str]) -> str:
    """Return the innermost block that a parameter belongs to, or "elsewhere"."""
    inside = (block for block in blocks if parameter_name.startswith(f"{block}."))
    return max(inside, key=len, default="elsewhere")


@contextmanager
def watch_blocks(backbone: nn.Module) -> Iterator[BlockMaps]:
    """Give a dictionary of every block's input and output in its last call, in the order of these calls.

    The input is the first argument that is a map, or zeros. Blocks that are not called, or return no map, are left out.
    """
    seen: BlockMaps = {}

    def keep(name: str, _: nn.Module, arguments: tuple, options: dict[str, Any], output: Any) -> None:
        left = next(maps([getattr(output, "sample", output)]), None)
        if left is not None:
            seen.pop(name, None)
            seen[name] = next(maps([*arguments, *options.values()]), torch.zeros_like(left)), left

    with ExitStack() as hooks:
        for name in places(backbone):
            module = backbone.get_submodule(name)
            handle = module.register_forward_hook(partial(keep, name), with_kwargs=True)
            hooks.callback(handle.remove)
        yield seen


def maps(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the maps among values and in lists of them; tokens of a square map are brought into its shape."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from maps(value)
        elif isinstance(value, Tensor) and value.ndim == 4:
            yield value.detach()
        elif isinstance(value, Tensor) and value.ndim == 3:
            side = math.isqrt(value.shape[1])
            if side**2 == value.shape[1]:
                yield value.detach().transpose(1, 2).unflatten(2, (side, side))
