"""Group normalisation, with or without SiLU: faster kernels for channels-last images, same results.

torch's own kernel on CPUs is written for contiguous memory; on channels-last memory it takes several times as long.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """torch's group normalisation, computed by `normalise`."""

    def forward(self, input: Tensor) -> Tensor:
        return normalise(self, input)


def normalise(norm: nn.GroupNorm, x: Tensor, silu: bool = False) -> Tensor:
    """Return norm(x), or with `silu` silu(norm(x)), for x [N,C,H,W]; only x is saved for the backward pass."""
    arguments = x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu
    if not is_suitable(x):
        return reference(*arguments)
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in norm.parameters())):
        return Normalisation.apply(*arguments)  # pyright: ignore[reportReturnType]
    return compute_forward(*arguments)[0]


def is_suitable(x: Tensor) -> bool:
    """Return whether our kernels apply to x: channels-last on a CPU, without compilation or autocast."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def reference(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
    normal = F.group_norm(x, groups, weight, bias, eps)
    return F.silu(normal) if silu else normal


def compute_forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result, and the mean [N,G] and one over the standard deviation [N,G] of every group."""
    mean = average_groups(x.mean((2, 3)), groups)
    result = x - per_channel(mean, x)
    scale = (average_groups(result.square().mean((2, 3)), groups) + eps).rsqrt()
    torch.addcmul(per_channel(bias, x), result, per_channel(scale, x) * per_channel(weight, x), out=result)
    return F.silu(result, inplace=True) if silu else result, mean, scale


class Normalisation(torch.autograd.Function):
    """Group normalisation, and SiLU where asked for; the backward pass recomputes what lies between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        result, mean, scale = compute_forward(x, weight, bias, groups, eps, silu)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.settings = groups, eps, silu
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        (gradient,), (groups, eps, silu), needed = gradients, ctx.settings, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # this gradient will itself be differentiated: torch computes it from the start
            inputs = [tensor for tensor, asked in zip((x, weight, bias), needed, strict=True) if asked]
            result = reference(x, weight, bias, groups, eps, silu)
            rows = iter(torch.autograd.grad(result, inputs, gradient, create_graph=True))
            return *(next(rows) if asked else None for asked in needed), None, None, None

        normal = (x - per_channel(mean, x)).mul_(per_channel(scale, x))
        if silu:
            before = torch.addcmul(per_channel(bias, x), normal, per_channel(weight, x))
            gradient = torch.ops.aten.silu_backward(gradient, before)
        sums = gradient.sum((2, 3)), (gradient * normal).sum((2, 3))  # of each image, for the bias and the weight
        offset, slope = (average_groups(part * weight, groups) / -(x.shape[2] * x.shape[3]) * scale for part in sums)
        of_x = torch.addcmul(per_channel(offset, x), gradient, per_channel(scale, x) * per_channel(weight, x))
        rows = of_x.addcmul_(normal, per_channel(slope, x)), sums[1].sum(0), sums[0].sum(0)
        return *(row if asked else None for row, asked in zip(rows, needed, strict=True)), None, None, None


def average_groups(of_channels: Tensor, groups: int) -> Tensor:
    """Return the means of groups [N,G] of numbers per channel [N,C]."""
    return of_channels.unflatten(1, (groups, -1)).mean(2)


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Return numbers per group [N,G] or per channel [C] as ones that broadcast over x [N,C,H,W]."""
    if values.dim() == 2:
        values = values.repeat_interleave(x.shape[1] // values.shape[1], dim=1)
    return values[..., None, None]
