"""Gradient checkpointing: blocks keep their inputs alone for the gradient, and run again for it (arXiv 1604.06174)."""

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn

LISTS = nn.ModuleList | nn.ModuleDict | nn.Sequential


def checkpoint_blocks(network: nn.Module) -> None:
    """Let a network's blocks run again for their gradients, from now on; its copies do so, too.

    Outputs, gradients, randomness and names of weights stay; without gradients nothing runs twice. Raises ValueError
    for a network in which no blocks are found.
    """
    blocks = list(find_blocks(network))
    if not blocks:
        raise ValueError(
            f"{type(network).__name__} has no blocks in lists (nn.ModuleList, ModuleDict or Sequential) that could "
            "run again for the gradient: leave checkpointing out, or checkpoint them in its forward."
        )
    for block in blocks:
        block.forward = MethodType(forward, block)  # which a deep copy binds to the copied block


def forward(self: nn.Module, *arguments: Any, **options: Any) -> Any:
    """Call a block, and keep for the gradient what it was given."""
    run = type(self).forward
    if not torch.is_grad_enabled():
        return run(self, *arguments, **options)
    from torch.utils.checkpoint import checkpoint

    return checkpoint(run, self, *arguments, use_reentrant=False, **options)


def find_blocks(module: nn.Module, listed: bool = False) -> Iterator[nn.Module]:
    """Yield the outermost parts of lists that are blocks: a level of a U-Net, which lists such itself, is none."""
    if listed and is_block(module):
        yield module
        return
    for child in module.children():
        yield from find_blocks(child, isinstance(module, LISTS))


def is_block(module: nn.Module) -> bool:
    """Return whether a part has several layers, is called as a whole, and repeats none of its own."""
    is_called = type(module).forward is not nn.Module.forward
    return is_called and is_deep(module) and not any(map(repeats, module.modules()))


def is_deep(module: nn.Module) -> bool:
    """Return whether a part saves more than its input: one layer in a shell does not."""
    return sum(1 for _ in module.modules()) > 2


def repeats(module: nn.Module) -> bool:
    """Return whether a part is a list with several of one kind that have several layers each."""
    kinds = [type(child) for child in module.children() if is_deep(child)] if isinstance(module, LISTS) else []
    return len(set(kinds)) < len(kinds)
