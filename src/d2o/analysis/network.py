"""The blocks of a network by name and place, and what passes through them while it is called."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from d2o.backbones import BACKBONES

OUTPUT = "output"
"""The place of the block that gives the network's output."""
# Of the project's own backbones: the first row (pattern of a module's whole name, place) that matches decides; modules
# that match none are no blocks.
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
"""The place of the blocks of any other network: its parts, with those of lists taken one by one."""
LISTS = (nn.ModuleDict, nn.ModuleList, nn.Sequential)

Seen = dict[str, tuple[Tensor, Tensor]]
"""Block -> what came in and what went out, as maps [N, C, h, w]."""


def places(network: nn.Module) -> dict[str, str]:
    """Return the place of every block of a network, by module name and in the order of the network's definition.

    A network of the project's own that is a part of another is cut into its blocks, too.
    """
    prefix = own_prefix(network)
    if prefix is not None:
        names = [name for name, _ in network.named_modules()]
        rows = ((name, next((row[1] for row in PLACES if re.fullmatch(row[0], prefix + name)), "")) for name in names)
        return {name: place for name, place in rows if place}
    found: dict[str, str] = {}
    for name, part in parts(network):
        inside = places(part) if own_prefix(part) is not None else {}
        found |= {f"{name}.{block}": place for block, place in inside.items()} or {name: ELSEWHERE}
    return found


def own_prefix(network: nn.Module) -> str | None:
    """Return what PLACES has before the names of a network's modules; None for a network that is not the project's."""
    if isinstance(network, tuple(BACKBONES.values())):
        return ""
    return "unet." if type(network).__name__ == "UNet2DModel" else None  # of diffusers, which may not be installed


def parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield a network's direct parts by name; those of lists one by one."""
    for name, child in module.named_children():
        if isinstance(child, LISTS):
            yield from parts(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def block_of(parameter_name: str, blocks: dict[str, str]) -> str:
    """Return the block that a parameter belongs to, or "elsewhere"."""
    inside = [block for block in blocks if parameter_name.startswith(block + ".")]
    return max(inside, key=len) if inside else "elsewhere"


@contextmanager
def taps(backbone: nn.Module) -> Iterator[Seen]:
    """Give a dictionary that holds, after each call of the network, every block's input and output, in calling order.

    The input is the first argument that is a map; zeros stand for none. Of a block that is called more than once in a
    call of the network, the last call counts. One that is not called, or gives no map, is not in it.
    """
    seen: Seen = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, arguments: tuple, named: dict[str, Any], output: Any) -> None:
            made = result(output)
            if isinstance(made, Tensor) and made.ndim in (3, 4):
                left = as_map(made.detach())
                entered = next(maps((*arguments, *named.values())), torch.zeros_like(left))
                seen.pop(name, None)
                seen[name] = entered, left

        return hook

    handles = [
        backbone.get_submodule(name).register_forward_hook(keep(name), with_kwargs=True) for name in places(backbone)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def maps(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield those of a block's arguments, and of lists among them, that are maps or the tokens of one."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from maps(value)
        elif isinstance(value, Tensor) and (value.ndim == 4 or (value.ndim == 3 and square(value))):
            yield as_map(value.detach())


def result(output: Any) -> Any:
    """Return what a block made: its output, the first of several, or the `sample` of a record."""
    if isinstance(output, tuple | list):
        return output[0] if output else None
    return getattr(output, "sample", output)


@contextmanager
def replaced(backbone: nn.Module, block: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace what one block makes, in every call of it, by `change` of it, a function of maps [N, C, h, w].

    ValueError for a block that makes no map, or whose output cannot be made anew.
    """

    def hook(_: nn.Module, __: tuple, output: Any) -> Any:
        made = result(output)
        if not isinstance(made, Tensor) or made.ndim not in (3, 4):
            raise ValueError(f"The block {block} gives no map that could be filtered: choose another block.")
        value = as_tokens(change(as_map(made)), made)
        try:
            changed = exchanged(output, value)
        except Exception as error:  # whatever the constructor of someone's own class raises
            raise ValueError(unchangeable(block, output)) from error
        if result(changed) is not value:
            raise ValueError(unchangeable(block, output))
        return changed

    handle = backbone.get_submodule(block).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def exchanged(output: Any, value: Tensor) -> Any:
    """Return a copy of a block's output with `value` in place of what `result` takes from it."""
    if isinstance(output, Tensor):
        return value
    if isinstance(output, tuple | list):
        values = (value, *output[1:])
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    if hasattr(output, "__dataclass_fields__"):
        return replace(output, sample=value)
    other = copy(output)
    other.sample = value
    return other


def unchangeable(block: str, output: Any) -> str:
    """Return why a block cannot be filtered."""
    return (
        f"The block {block} gives a {type(output).__name__} in which nothing can be replaced: let it return a tensor, "
        "a tuple or a dataclass with `sample`, or choose another block."
    )


def as_map(value: Tensor) -> Tensor:
    """Return tokens [N, side * side, C], row by row, as a map [N, C, side, side]; maps stay as they are."""
    if value.ndim == 4:
        return value
    if not square(value):
        raise ValueError(f"{value.shape[1]} tokens are no square map: this network's blocks cannot be seen as images.")
    side = math.isqrt(value.shape[1])
    return value.transpose(1, 2).unflatten(2, (side, side))


def square(tokens: Tensor) -> bool:
    """Return whether as many tokens [N, T, C] fill a square."""
    return math.isqrt(tokens.shape[1]) ** 2 == tokens.shape[1]


def as_tokens(value: Tensor, like: Tensor) -> Tensor:
    """Return a map in the layout of `like`: the inverse of `as_map`."""
    return value if like.ndim == 4 else value.flatten(2).transpose(1, 2)


def sizes(backbone: nn.Module, call: Any) -> dict[str, tuple[int, int]]:
    """Return the size (h, w) of every block's output in one call of the network, made by `call`."""
    with torch.no_grad(), taps(backbone) as seen:
        call()
    return {name: (output.shape[-2], output.shape[-1]) for name, (_, output) in seen.items()}
