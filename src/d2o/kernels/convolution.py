"""Convolutions with faster kernels and the same results, for weights that are not trained.

torch saves the input of every convolution for the gradient of its weights, and differentiates the backward pass of
grouped ones group by group, whether or not anything asks for it. A frozen weight needs neither.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 1024  # on CPUs a 1x1 convolution of at most so many pixels in all is faster as a matrix product


class Geometry(NamedTuple):
    """The arguments of `torch.nn.functional.conv2d` that are not tensors."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


PLAIN = Geometry()


class Convolution(nn.Conv2d):
    """`nn.Conv2d` computed by `convolve`."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super()._conv_forward(input, weight, bias)
        geometry = Geometry(self.stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]
        return convolve(input, weight, bias, geometry)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, geometry: Geometry = PLAIN) -> Tensor:
    """Return `conv2d` of x [N,C,H,W]; a frozen `weight` and `bias` save no input for the backward pass."""
    if is_product(x, weight, geometry):
        rows = F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias)
        return rows.permute(0, 3, 1, 2)
    if not differentiates_input_only(x, weight, bias):
        return F.conv2d(x, weight, bias, *geometry)
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):  # autocast does not reach into a function's backward pass
        precision = torch.get_autocast_dtype(kind)
        x, weight, bias = x.to(precision), weight.to(precision), None if bias is None else bias.to(precision)
    return FrozenConvolution.apply(x, weight, bias, geometry)  # pyright: ignore[reportReturnType]


def is_product(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Return whether a convolution is a matrix product over few pixels, which lie in memory as rows."""
    return (
        x.device.type == "cpu"
        and weight.shape[2:] == (1, 1)
        and geometry == PLAIN
        and not torch.compiler.is_compiling()
        and x.shape[0] * x.shape[2] * x.shape[3] <= FEW_ROWS
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def differentiates_input_only(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether a backward pass will ask for the gradient of x, and for no other."""
    is_trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    return torch.is_grad_enabled() and x.requires_grad and not is_trained


class FrozenConvolution(torch.autograd.Function):
    """A convolution of which only the input is differentiated, to any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(weight)
        by_rows = x.is_contiguous(memory_format=torch.channels_last)
        ctx.like = x.shape, torch.channels_last if by_rows else torch.contiguous_format
        ctx.geometry = geometry
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, None, None, None]:
        (weight,) = ctx.saved_tensors
        return InputGradient.apply(gradients[0], weight, ctx.like, ctx.geometry), None, None, None


class InputGradient(torch.autograd.Function):
    """The transposed convolution: linear in the gradient, so that its own gradient is the convolution again."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, weight: Tensor, like: tuple, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.geometry = geometry
        shape, memory_format = like
        x = torch.empty(shape, dtype=gradient.dtype, device=gradient.device, memory_format=memory_format)
        settings = None, *geometry[:3], False, [0, 0], geometry.groups, (True, False, False)
        return torch.ops.aten.convolution_backward(gradient, x, weight, *settings)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, None, None, None]:
        (weight,) = ctx.saved_tensors
        return FrozenConvolution.apply(gradients[0], weight, None, ctx.geometry), None, None, None
