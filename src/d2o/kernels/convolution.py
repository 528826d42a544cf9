"""Convolutions that know when their weights do not move.

torch keeps the input of every convolution for the gradient of its weights, and differentiates the backward pass of
grouped ones group by group, whether or not anything asks for it. A frozen weight needs neither.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .switch import Switch

FEW_ROWS = 1024
"""On CPUs a 1x1 convolution of at most so many pixels, over the batch, is faster as a product of matrices."""


class Geometry(NamedTuple):
    """What `torch.nn.functional.conv2d` wants to know besides tensors."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


PLAIN = Geometry()


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, geometry: Geometry = PLAIN) -> Tensor:
    """Return `conv2d` of x [N,C,H,W]; nothing is kept for the gradient of a `weight` and `bias` that do not need it."""
    if is_product(x, weight, geometry):
        rows = F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias)
        return rows.permute(0, 3, 1, 2)
    moves = weight.requires_grad or (bias is not None and bias.requires_grad)
    if moves or Switch.plain or not (torch.is_grad_enabled() and x.requires_grad):
        return F.conv2d(x, weight, bias, *geometry)
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(
        kind
    ):  # which does not reach the backward pass of a function of our own
        precision = torch.get_autocast_dtype(kind)
        x, weight = x.to(precision), weight.to(precision)
        bias = None if bias is None else bias.to(precision)
    return Frozen.apply(x, weight, bias, geometry)  # pyright: ignore[reportReturnType]


def is_product(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Return whether a convolution is a product of matrices over few pixels, which lie in memory as rows."""
    return (
        x.device.type == "cpu"
        and weight.shape[2:] == (1, 1)
        and geometry == PLAIN
        and not torch.compiler.is_compiling()
        and not Switch.plain
        and x.shape[0] * x.shape[2] * x.shape[3] <= FEW_ROWS
        and x.is_contiguous(memory_format=torch.channels_last)
    )


class Frozen(torch.autograd.Function):
    """A convolution of which only the input is differentiated, as often as wanted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.like, ctx.geometry = (x.shape, layout(x)), geometry
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        back = InputGradient.apply(gradients[0], weight, ctx.like, ctx.geometry)
        return back, None, None, None  # pyright: ignore[reportReturnType]


class InputGradient(torch.autograd.Function):
    """The transposed convolution: linear in the gradient, so that its own gradient is the convolution again."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, weight: Tensor, like: tuple, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.geometry = geometry
        shape, memory_format = like
        x = torch.empty(shape, dtype=gradient.dtype, device=gradient.device, memory_format=memory_format)
        stride, padding, dilation, groups = geometry
        asked = (True, False, False)
        return torch.ops.aten.convolution_backward(
            gradient, x, weight, None, stride, padding, dilation, False, [0, 0], groups, asked
        )[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return Frozen.apply(gradients[0], weight, None, ctx.geometry), None, None, None  # pyright: ignore[reportReturnType]


def layout(x: Tensor) -> torch.memory_format:
    """Return how the values of x lie in memory."""
    rows = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if rows else torch.contiguous_format


class Convolution(nn.Conv2d):
    """`nn.Conv2d` that keeps nothing for a weight that does not move."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super()._conv_forward(input, weight, bias)
        return convolve(input, weight, bias, self.geometry)

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]
