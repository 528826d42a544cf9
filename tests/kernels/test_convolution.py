"""Frozen convolutions give torch's numbers and torch's gradients, to any order, and keep no inputs."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d2o.kernels import convolution
from d2o.kernels.convolution import Convolution, Geometry, convolve

CASES = {
    "3x3": ((2, 4, 6, 6), (5, 4, 3, 3), Geometry(padding=(1, 1))),
    "stride": ((2, 4, 7, 7), (5, 4, 4, 4), Geometry(stride=(2, 2), padding=(1, 1))),
    "depthwise": ((2, 4, 6, 6), (4, 1, 3, 3), Geometry(padding=(1, 1), groups=4)),
    "dilated": ((2, 4, 9, 9), (2, 4, 3, 3), Geometry(dilation=(2, 2))),
    "1x1": ((2, 4, 3, 3), (5, 4, 1, 1), Geometry()),
}


def tensors(case: str, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None, Geometry]:
    shape, weight, geometry = CASES[case]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(weight, generator=generator, dtype=torch.float64)
    return x, kernel, torch.randn(weight[0], generator=generator, dtype=torch.float64) if bias else None, geometry


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_values_and_first_gradients_are_torchs(case: str, bias: bool) -> None:
    x, weight, shift, geometry = tensors(case, bias)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = convolve(ours, weight, shift, geometry), F.conv2d(theirs, weight, shift, *geometry)
    assert torch.allclose(found, expected, atol=1e-12)
    found.sin().sum().backward()
    expected.sin().sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_second_gradients_are_right(case: str) -> None:
    x, weight, shift, geometry = tensors(case)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: convolve(x, weight, shift, geometry), (x,))
    assert torch.autograd.gradgradcheck(lambda x: convolve(x, weight, shift, geometry).pow(2), (x,))


@pytest.mark.parametrize("case", CASES)
def test_weights_that_move_have_gradients(case: str) -> None:
    x, weight, shift, geometry = tensors(case)
    assert shift is not None
    weight.requires_grad_()
    shift.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w, b: convolve(x, w, b, geometry), (x.requires_grad_(), weight, shift))


@pytest.mark.parametrize("frozen", [True, False])
def test_only_a_weight_that_moves_keeps_the_input(frozen: bool) -> None:
    layer = Convolution(4, 4, 3, padding=1).requires_grad_(not frozen)
    kept = []
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t):
        layer(x)
    assert (x.numel() in kept) is not frozen


def test_products_are_chosen_by_the_number_of_pixels() -> None:
    weight = torch.zeros(8, 4, 1, 1)

    def chosen(side: int, images: int = 1, weight: Tensor = weight, geometry: Geometry = convolution.PLAIN) -> bool:
        x = torch.zeros(images, 4, side, side).contiguous(memory_format=torch.channels_last)
        return convolution.is_product(x, weight, geometry)

    assert chosen(32)
    assert not chosen(32, images=2)
    assert not chosen(4, weight=torch.zeros(8, 4, 3, 3))
    assert not chosen(4, geometry=Geometry(stride=(2, 2)))


def test_under_autocast_the_gradient_has_the_inputs_precision() -> None:
    layer = Convolution(4, 4, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    expected = x.detach().clone().requires_grad_()
    F.conv2d(expected, layer.weight, layer.bias, padding=1).sum().backward()
    assert x.grad is not None
    assert expected.grad is not None
    assert x.grad.dtype == torch.float32
    assert torch.allclose(x.grad, expected.grad, rtol=0.03, atol=0.03)


def test_other_paddings_are_torchs() -> None:
    torch.manual_seed(0)
    layer = Convolution(4, 4, 3, padding="same", padding_mode="circular").requires_grad_(False)
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    assert torch.equal(layer(x), F.conv2d(F.pad(x, (1, 1, 1, 1), "circular"), layer.weight, layer.bias))
