"""A normalisation and its activation, of which only the input is kept: the value between is quickly made again."""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .switch import Switch


def normalised_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Return silu(norm(x)) for x [N,C,...], keeping x alone for the backward pass."""
    moves = x.requires_grad or any(p.requires_grad for p in norm.parameters())
    if (
        Switch.plain
        or not (moves and torch.is_grad_enabled())
        or torch.compiler.is_compiling()
        or x.device.type == "meta"
        or torch.is_autocast_enabled(x.device.type)  # which does not reach into functions of our own
    ):
        return F.silu(norm(x))
    return NormalisedSiLU.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)  # pyright: ignore[reportReturnType]


class NormalisedSiLU(torch.autograd.Function):
    """SiLU of a group normalisation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        between, mean, deviation = torch.native_group_norm(x, weight, bias, *sizes(x), groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, deviation)
        ctx.settings = groups, eps
        return F.silu(between, inplace=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, deviation = ctx.saved_tensors
        groups, eps = ctx.settings
        needed = list(ctx.needs_input_grad[:3])
        if torch.is_grad_enabled():  # this gradient will itself be differentiated: torch does it from the start
            wanted = [tensor for tensor, asked in zip((x, weight, bias), needed, strict=True) if asked]
            found = iter(
                torch.autograd.grad(
                    F.silu(F.group_norm(x, groups, weight, bias, eps)), wanted, gradients, create_graph=True
                )
            )
            return *(next(found) if asked else None for asked in needed), None, None
        between = torch.native_group_norm(x, weight, bias, *sizes(x), groups, eps)[0]
        gradient = torch.ops.aten.silu_backward(gradients[0], between)
        found = torch.ops.aten.native_group_norm_backward(
            gradient, x, mean, deviation, weight, *sizes(x), groups, needed
        )
        return *found, None, None


def sizes(x: Tensor) -> tuple[int, int, int]:
    """Return images, channels and places of x."""
    return x.shape[0], x.shape[1], prod(x.shape[2:])
