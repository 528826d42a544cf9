"""A normalisation with its activation gives torch's numbers and gradients, and keeps its input alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2o.compute.activation import normalised_silu


def scene(dtype: torch.dtype = torch.float64) -> tuple[nn.GroupNorm, Tensor]:
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 4).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 4, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return norm, x


@pytest.mark.parametrize("frozen", [True, False])
def test_values_are_bit_equal_and_gradients_are_torchs(frozen: bool) -> None:
    norm, x = scene()
    norm.requires_grad_(not frozen)
    tensors = [x.requires_grad_(), *([] if frozen else norm.parameters())]
    found, expected = normalised_silu(norm, x), F.silu(norm(x))
    assert torch.equal(found, expected)
    ours = torch.autograd.grad(found.sin().sum(), tensors)
    theirs = torch.autograd.grad(expected.sin().sum(), tensors)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_second_gradients_are_right() -> None:
    norm, x = scene()

    def of(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        copy = nn.GroupNorm(2, 4).double()
        del copy.weight, copy.bias
        copy.weight, copy.bias = nn.Parameter(weight), nn.Parameter(bias)
        return normalised_silu(copy, x)

    assert torch.autograd.gradgradcheck(lambda x: of(x, norm.weight, norm.bias), (x.requires_grad_(),))


def test_only_the_input_is_kept() -> None:
    norm, x = scene(torch.float32)
    large: list[Tensor] = []
    x.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: large.append(t) or t, lambda t: t):
        normalised_silu(norm, x)
    assert [t.data_ptr() for t in large if t.numel() == x.numel()] == [x.data_ptr()]


def test_without_gradients_and_under_autocast_it_is_torchs() -> None:
    norm, x = scene(torch.float32)
    with torch.no_grad():
        assert torch.equal(normalised_silu(norm, x), F.silu(norm(x)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(normalised_silu(norm, x), F.silu(norm(x)))
