"""A folded network gives the same features and gradients, with fewer layers."""

import copy

import pytest
import timm
import torch
from torch import nn

from d2o.kernels.convolution import Convolution
from d2o.kernels.folding import fold_batch_norms


def with_statistics(network: nn.Module) -> nn.Module:
    """Give every batch norm numbers that folding could get wrong."""
    torch.manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.running_mean, norm.bias):
                assert tensor is not None
                nn.init.normal_(tensor, std=0.1)
            for tensor in (norm.running_var, norm.weight):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "resnet10t"])
def test_features_and_gradients_stay(name: str) -> None:
    # In float64: a value that rounding moves across a ReLU's kink would change the gradient for good.
    plain = with_statistics(timm.create_model(name, features_only=True)).double()
    fast = fold_batch_norms(copy.deepcopy(plain), torch.zeros(1, 3, 64, 64, dtype=torch.float64))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    found, expected = images.clone().requires_grad_(), images.clone().requires_grad_()
    for one, other in zip(fast(found), plain(expected), strict=True):
        assert (one - other).abs().max() < 1e-10 * other.abs().max()
    for network, seen in ((fast, found), (plain, expected)):
        torch.stack([tap.square().mean() for tap in network(seen)]).sum().backward()
    assert found.grad is not None
    assert expected.grad is not None
    assert (found.grad - expected.grad).abs().max() < 1e-10 * expected.grad.abs().max()
    assert not [norm for norm in fast.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert all(isinstance(layer, Convolution) for layer in fast.modules() if isinstance(layer, nn.Conv2d))


def test_a_norm_that_follows_no_convolution_stays() -> None:
    network = with_statistics(
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    )
    images = torch.randn(1, 3, 8, 8)
    expected = network(images)
    found = fold_batch_norms(network, images)
    assert torch.allclose(found(images), expected, atol=1e-6)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in found.modules()) == 2
