"""Group normalisation, with or without its activation, in a few passes over images that lie channels-last.

torch's own kernel on processors is made for memory by channels; on channels-last memory it takes several times as long.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .switch import Switch


class GroupNorm(nn.GroupNorm):
    """torch's group normalisation, computed by `normalised`."""

    def forward(self, input: Tensor) -> Tensor:
        return normalised(self, input)


def normalised(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Return norm(x) for x [N,C,H,W], keeping x alone for the backward pass."""
    return _computed(norm, x, activated=False)


def normalised_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Return silu(norm(x)) for x [N,C,H,W], keeping x alone for the backward pass."""
    return _computed(norm, x, activated=True)


def _computed(norm: nn.GroupNorm, x: Tensor, activated: bool) -> Tensor:
    """Choose between torch's kernels and our passes; the results differ by rounding."""
    settings = norm.num_groups, norm.eps, activated
    if Switch.plain or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or not suits(x):
        return reference(x, norm.weight, norm.bias, *settings)
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in norm.parameters())):
        return Normalised.apply(x, norm.weight, norm.bias, *settings)  # pyright: ignore[reportReturnType]
    return forwards(x, norm.weight, norm.bias, *settings)[0]


def suits(x: Tensor) -> bool:
    """Return whether x lies as our passes want it."""
    exact = x.dtype in (torch.float32, torch.float64)
    return x.device.type == "cpu" and exact and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def reference(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, activated: bool) -> Tensor:
    """Return the same by torch's kernels."""
    between = F.group_norm(x, groups, weight, bias, eps)
    return F.silu(between) if activated else between


class Moments(NamedTuple):
    """Mean [N,G] and one over the standard deviation [N,G] of every group."""

    mean: Tensor
    scale: Tensor


def forwards(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, activated: bool
) -> tuple[Tensor, Moments]:
    """Return the result and the moments of its groups."""
    mean = in_groups(x.mean((2, 3)), groups)
    result = x - per_channel(mean, x)
    scale = (in_groups(result.square().mean((2, 3)), groups) + eps).rsqrt()
    torch.addcmul(per_channel(bias, x), result, per_channel(scale, x) * per_channel(weight, x), out=result)
    return F.silu(result, inplace=True) if activated else result, Moments(mean, scale)


def backwards(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, moments: Moments, groups: int, activated: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias."""
    normal = (x - per_channel(moments.mean, x)).mul_(per_channel(moments.scale, x))
    if activated:
        between = torch.addcmul(per_channel(bias, x), normal, per_channel(weight, x))
        gradient = torch.ops.aten.silu_backward(gradient, between)
    of_bias = gradient.sum((2, 3))
    of_weight = (gradient * normal).sum((2, 3))
    mean, slope = (
        in_groups(part * weight, groups) / -(x.shape[2] * x.shape[3]) * moments.scale for part in (of_bias, of_weight)
    )
    found = torch.addcmul(per_channel(mean, x), gradient, per_channel(moments.scale, x) * per_channel(weight, x))
    return found.addcmul_(normal, per_channel(slope, x)), of_weight.sum(0), of_bias.sum(0)


class Normalised(torch.autograd.Function):
    """Group normalisation, and SiLU where asked for; what lies between is quickly made again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, activated: bool) -> Tensor:
        result, moments = forwards(x, weight, bias, groups, eps, activated)
        ctx.save_for_backward(x, weight, bias, *moments)
        ctx.settings = groups, eps, activated
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, *moments = ctx.saved_tensors
        groups, eps, activated = ctx.settings
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # this gradient will itself be differentiated: torch does it from the start
            wanted = [tensor for tensor, asked in zip((x, weight, bias), needed, strict=True) if asked]
            again = reference(x, weight, bias, groups, eps, activated)
            rows = iter(torch.autograd.grad(again, wanted, gradients, create_graph=True))
            return *(next(rows) if asked else None for asked in needed), None, None, None
        found = backwards(gradients[0], x, weight, bias, Moments(*moments), groups, activated)
        return *(part if asked else None for part, asked in zip(found, needed, strict=True)), None, None, None


def in_groups(of_channels: Tensor, groups: int) -> Tensor:
    """Return the mean of every group [N,G] of numbers per channel [N,C]."""
    return of_channels.unflatten(1, (groups, -1)).mean(2)


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Return numbers per group [N,G] or per channel [C] as ones that fit x [N,C,H,W]."""
    if values.dim() == 2:
        values = values.repeat_interleave(x.shape[1] // values.shape[1], dim=1)
    return values[..., None, None]
