"""Fold batch norms into the convolutions before them: fewer layers, same results."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .convolution import Convolution


def fold_batch_norms(network: nn.Module, image: Tensor) -> nn.Module:
    """Fold, in place, every batch norm that takes nothing but a convolution's output into that convolution.

    `network` is in evaluation mode and frozen; `image` [1,3,H,W] is passed through it to see what follows what.
    Convolutions become ones that save no inputs for the backward pass.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    for convolution, norm, name in find_pairs(network, image):
        weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        convolution.weight, convolution.bias = weight.requires_grad_(False), bias.requires_grad_(False)
        # timm's batch norms bring their activation along.
        network.set_submodule(name, getattr(norm, "act", nn.Identity()))
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and not isinstance(module, Convolution):
            network.set_submodule(name, copy_frozen(module))
    return network


def find_pairs(network: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, Any, str]]:
    """Return every convolution whose output only a batch norm takes, that batch norm, and its name."""
    source: dict[int, nn.Conv2d] = {}
    alive: list[Tensor] = []  # so that no two outputs share an address
    pairs: list[tuple[nn.Conv2d, Any, str]] = []
    names = {module: name for name, module in network.named_modules()}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            source[id(output)] = module
            alive.append(output)
        elif (convolution := source.pop(id(inputs[0]), None)) is not None:
            pairs.append((convolution, module, names[module]))

    with ExitStack() as hooks, torch.no_grad():
        for module in names:
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                hooks.enter_context(module.register_forward_hook(note))
        network(image)
    return pairs


def copy_frozen(module: nn.Conv2d) -> nn.Module:
    """Return a convolution with the same weights that saves no inputs for the backward pass."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    settings: dict[str, Any] = {name: getattr(module, name) for name in names}
    copy = Convolution(**settings, bias=module.bias is not None, padding_mode=module.padding_mode, device="meta")
    copy.weight, copy.bias = module.weight, module.bias
    copy.requires_grad_(False)
    if type(module) is nn.Conv2d:
        return copy
    # TensorFlow's padding depends on the image. Other kinds of convolutions stay as they are.
    return nn.Sequential(SamePadding(copy), copy) if "Same" in type(module).__name__ else module


class SamePadding(nn.Module):
    """TensorFlow's padding: as many outputs as the stride leaves, the odd zero at the end."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.settings = list(convolution.kernel_size), list(convolution.stride), list(convolution.dilation)
        convolution.padding = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        from timm.layers.padding import pad_same

        return pad_same(x, *self.settings)
