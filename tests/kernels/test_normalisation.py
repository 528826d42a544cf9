"""A normalisation, alone or with its activation, gives torch's numbers and gradients, and keeps its input alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2o.kernels.normalisation import normalise


def scene(dtype: torch.dtype = torch.float64) -> tuple[nn.GroupNorm, Tensor]:
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 4).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 4, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return norm, x


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("silu", [True, False])
def test_values_and_gradients_are_torchs(frozen: bool, silu: bool) -> None:
    norm, x = scene()
    norm.requires_grad_(not frozen)
    tensors = [x.requires_grad_(), *([] if frozen else norm.parameters())]
    found = normalise(norm, x, silu)
    expected = F.silu(norm(x)) if silu else norm(x)
    assert torch.allclose(found, expected, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(normalise(norm, x, silu), found)
    ours = torch.autograd.grad(found.sin().sum(), tensors)
    theirs = torch.autograd.grad(expected.sin().sum(), tensors)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_a_large_mean_costs_no_more_digits_than_torchs_own() -> None:
    norm, x = scene()
    exact = F.silu(norm(x + 1000))
    low = nn.GroupNorm(2, 4)
    low.load_state_dict(norm.state_dict())
    worst = (F.silu(low((x + 1000).float())) - exact).abs().max()
    assert (normalise(low, (x + 1000).float(), silu=True) - exact).abs().max() < 2 * worst


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 1, 1), (1, 4, 3, 5)])
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    norm, _ = scene(torch.float32)
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    found = normalise(norm, x, silu=True)
    found.sum().backward()
    assert torch.allclose(found, F.silu(norm(x)), atol=1e-5)
    assert x.grad is not None and x.grad.isfinite().all()


def test_second_gradients_are_right() -> None:
    norm, x = scene()

    def of(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        copy = nn.GroupNorm(2, 4).double()
        del copy.weight, copy.bias
        copy.weight, copy.bias = nn.Parameter(weight), nn.Parameter(bias)
        return normalise(copy, x, silu=True)

    assert torch.autograd.gradgradcheck(lambda x: of(x, norm.weight, norm.bias), (x.requires_grad_(),))


def test_only_the_input_is_kept() -> None:
    norm, x = scene(torch.float32)
    large: list[Tensor] = []
    x.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: large.append(t) or t, lambda t: t):
        normalise(norm, x, silu=True)
    assert [t.data_ptr() for t in large if t.numel() == x.numel()] == [x.data_ptr()]


def test_under_autocast_and_in_other_memory_it_is_torchs() -> None:
    norm, x = scene(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(normalise(norm, x, silu=True), F.silu(norm(x)))
    x = x.contiguous()
    assert torch.equal(normalise(norm, x, silu=True), F.silu(norm(x)))
