"""Make a frozen network ready to be looked through: batch norms folded into convolutions that keep no inputs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .convolution import Convolution


def folded(network: nn.Module, image: Tensor) -> nn.Module:
    """Fold, in place, every batch norm that takes nothing but a convolution's output into that convolution.

    `network` is in evaluation mode and frozen; `image` [1,3,H,W] is passed through it to see what follows what. The
    outputs stay the same but for rounding.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    for convolution, norm, place in followers(network, image):
        weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        convolution.weight, convolution.bias = weight.requires_grad_(False), bias.requires_grad_(False)
        # timm's batch norms bring their activation along.
        replace(network, place, getattr(norm, "act", nn.Identity()))
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and not isinstance(module, Convolution):
            replace(network, name, frozen_copy(module))
    return network


def followers(network: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, Any, str]]:
    """Return every convolution whose output only a batch norm takes, that batch norm, and its name."""
    made_by: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # so that no two outputs share an address
    pairs: list[tuple[nn.Conv2d, Any, str]] = []
    names = {module: name for name, module in network.named_modules()}

    def made(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made_by[id(output)] = module
        kept.append(output)

    def taken(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if (convolution := made_by.pop(id(inputs[0]), None)) is not None:
            pairs.append((convolution, module, names[module]))

    handles = [module.register_forward_hook(made) for module in names if isinstance(module, nn.Conv2d)]
    handles += [module.register_forward_pre_hook(taken) for module in names if isinstance(module, nn.BatchNorm2d)]
    try:
        with torch.no_grad():
            getattr(network, "forward_features", network)(image)
    finally:
        for handle in handles:
            handle.remove()
    return pairs


def frozen_copy(module: nn.Conv2d) -> nn.Module:
    """Return a convolution with the same weights that keeps no inputs."""
    settings: dict[str, Any] = {
        name: getattr(module, name)
        for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    }
    with torch.device("meta"):
        copy = Convolution(module.in_channels, module.out_channels, bias=module.bias is not None, **settings)
    copy.weight, copy.bias = module.weight, module.bias
    copy.requires_grad_(False)
    if type(module) is nn.Conv2d:
        return copy
    same = "Same" in type(module).__name__  # TensorFlow's padding, which depends on the image
    return nn.Sequential(SamePadding(copy), copy) if same else module


class SamePadding(nn.Module):
    """TensorFlow's padding: as many outputs as the stride leaves, the odd zero at the end."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.settings = list(convolution.kernel_size), list(convolution.stride), list(convolution.dilation)
        convolution.padding = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        from timm.layers.padding import pad_same

        return pad_same(x, *self.settings)


def replace(network: nn.Module, place: str, module: nn.Module) -> None:
    """Put a module where the dotted name `place` says."""
    parent, _, name = place.rpartition(".")
    setattr(network.get_submodule(parent), name, module)
