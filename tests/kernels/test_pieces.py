"""Frozen networks that run again in pieces differentiate as they did, to the second order, and keep only images."""

import pytest
import torch
from torch import Tensor, nn

from d2o.kernels.pieces import PIECES, run_in_pieces


class Maps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(*widths, 3, stride=2, padding=1) for widths in ((3, 8), (8, 16)))
        self.double().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.layers:
            images = torch.sin(layer(images))
            maps.append(images)
        return maps


def pair() -> tuple[Maps, Maps]:
    plain, again = Maps(), Maps()
    run_in_pieces(again)
    return plain, again


def judge(maps: list[Tensor], weights: list[Tensor]) -> Tensor:
    return torch.stack([(one.tanh() * weight).sum() for one, weight in zip(maps, weights, strict=True)]).sum()


@pytest.mark.parametrize("count", [1, PIECES - 1, PIECES, 2 * PIECES + 1])
def test_gradients_and_those_of_a_penalty_on_them_stay(count):
    images = torch.randn(count, 3, 8, 8, dtype=torch.float64)
    found = []
    for network in pair():
        shown = images.clone().requires_grad_()
        weights = [torch.full((), value, dtype=torch.float64, requires_grad=True) for value in (0.7, -0.4)]
        maps = network(shown)
        (slope,) = torch.autograd.grad(judge(maps, weights), shown, create_graph=True)
        slope.square().sum().backward()
        found.append((*maps, slope, shown.grad, *(weight.grad for weight in weights)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_only_the_images_are_kept():
    plain, again = pair()
    images = torch.randn(PIECES, 3, 64, 64, dtype=torch.float64, requires_grad=True)

    def kept(network: nn.Module) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.nbytes) or x, lambda x: x):
            network(images)
        return sum(sizes)

    assert kept(again) == images.nbytes < kept(plain) / 2


def test_without_gradients_it_runs_as_it_is():
    plain, again = pair()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for one, other in zip(plain(images), again(images), strict=True):
        assert torch.equal(one, other) and not other.requires_grad
