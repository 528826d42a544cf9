"""Frozen networks that run again for the gradient of their images, a few of the images at a time.

They keep nothing for it but the images. What is computed is linear in the gradient, so that a penalty on the gradient
keeps nothing either: its own derivative is taken in the same pieces.
"""

from collections.abc import Callable, Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

PIECES = 8
"""Of a batch: more need less memory."""

Run = Callable[[Tensor], Sequence[Tensor]]
"""Images [N,C,H,W] -> maps, each a function of its image alone."""


def run_in_pieces(network: nn.Module) -> None:
    """Let a frozen network, whose `forward` is a Run, run again for the gradient of its images, from now on."""
    network.forward = MethodType(forward, network)


def forward(self: nn.Module, images: Tensor) -> list[Tensor]:
    run = MethodType(type(self).forward, self)
    if not (torch.is_grad_enabled() and images.requires_grad):
        return run(images)
    return list(Maps.apply(run, images))  # pyright: ignore[reportArgumentType]


def split(images: Tensor) -> Iterator[slice]:
    size = -(-len(images) // PIECES)
    return (slice(start, start + size) for start in range(0, len(images), size))


class Maps(torch.autograd.Function):
    """What a network makes of images."""

    @staticmethod
    def forward(ctx: Any, run: Run, images: Tensor) -> tuple[Tensor, ...]:
        ctx.run = run
        ctx.save_for_backward(images)
        parts = [run(images[part]) for part in split(images)]
        return tuple(map(torch.cat, zip(*parts, strict=True)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Any]:
        return None, Gradient.apply(ctx.run, ctx.saved_tensors[0], *gradients)


class Gradient(torch.autograd.Function):
    """The gradient of the images for those of the maps."""

    @staticmethod
    def forward(ctx: Any, run: Run, images: Tensor, *gradients: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(images, *gradients)
        return torch.cat([differentiate(run, images, gradients, part)[2] for part in split(images)])

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Any, ...]:
        images, *gradients = ctx.saved_tensors
        parts = []
        for part in split(images):
            with torch.enable_grad():
                shown, weights, slope = differentiate(ctx.run, images, gradients, part, again=True)
                wanted = [shown, *weights] if ctx.needs_input_grad[1] else weights
                found = torch.autograd.grad(slope, wanted, given[0][part])
            parts.append(found)
        found = tuple(map(torch.cat, zip(*parts, strict=True)))
        return None, *(found if ctx.needs_input_grad[1] else (None, *found))


def differentiate(
    run: Run, images: Tensor, gradients: Sequence[Tensor], part: slice, again: bool = False
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return a part's images, its maps' gradients, and the gradient of its images, to be differentiated `again`."""
    shown = images[part].detach().requires_grad_()
    weights = [gradient[part].detach().requires_grad_(again) for gradient in gradients]
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(run(shown), shown, weights, create_graph=again)
    return shown, weights, slope
