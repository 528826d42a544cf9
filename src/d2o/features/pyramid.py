"""Pyramids: a frozen network tapped at four depths, through which gradients reach the images."""

import re
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from . import weights as weight_files
from .frozen import FrozenMaps, Normalise

# Indices into timm's levels (convolutional networks) or blocks (transformers).
TAPS = {
    "tf_efficientnet_lite0": (1, 2, 3, 4),  # after stages 1, 2, 4, 6; nothing runs past the last
    "vgg16_bn": (1, 2, 3, 4),  # after the ReLU that ends convolution groups 2 to 5, before the pooling
    "deit_base_distilled_patch16_224": (2, 5, 8, 11),  # transformer blocks 3, 6, 9, 12, counted from one
}
ALTERNATIVES = f"choose for instance {', '.join(TAPS)}"
TRANSFORMERS = ("vit_", "deit_", "deit3_")  # timm's families of plain vision transformers


class Pyramid(FrozenMaps):
    """Map float images [N, C, H, W] in [-1, 1], C 1 or 3, to the four tap maps of a frozen network, finest first.

    Any timm network will do that has four levels or is a plain vision transformer; `weights` is one of
    `weights.SOURCES`. Images are resized to `size`, for a transformer to the next multiple of its patches. `channels`
    and `sides` describe the taps; `tokens` says that they are a transformer's patch tokens, all of one size.
    """

    def __init__(self, name: str, size: int = 224, weights: str = "auto") -> None:
        super().__init__()
        self.tokens = name.startswith(TRANSFORMERS)
        if self.tokens and (patch := re.search(r"_patch(\d+)", name)):
            size = -(-size // int(patch[1])) * int(patch[1])
        self.name, self.size = name, size
        architecture = name.partition(".")[0]
        network: Any = weight_files.network(name, weights, **({"img_size": size} if self.tokens else {}))
        self.indices = TAPS[architecture] if architecture in TAPS else find_levels(network, name, self.tokens)
        network.prune_intermediate_layers(list(self.indices), prune_norm=True, prune_head=True)
        for module in network.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # the fused kernel has no second derivative, which R1 needs
            if hasattr(module, "inplace"):
                module.inplace = False  # where gradients flow, autograd copies what is overwritten, views even twice
        self.network: Any = network
        self.normalise = Normalise(network.pretrained_cfg["mean"], network.pretrained_cfg["std"], size)
        self.freeze()
        with torch.no_grad():
            taps = self(torch.zeros(1, 3, size, size))
        self.channels = tuple(tap.shape[1] for tap in taps)
        self.sides = tuple(tap.shape[2] for tap in taps)
        if not self.tokens and any(fine <= coarse for fine, coarse in pairwise(self.sides)):
            raise ValueError(f"{name} does not halve its maps (sides {self.sides} at {size} pixels): {ALTERNATIVES}.")

    def forward(self, images: Tensor) -> list[Tensor]:
        assert images.ndim == 4 and images.shape[1] in (1, 3), "images are [N, 1 or 3, H, W]"
        with weight_files.precision_for(images.device):
            images = self.normalise(images).contiguous(memory_format=torch.channels_last)
            if not (self.tokens and self.network.num_prefix_tokens):
                return self.intermediates(images)
            # Class tokens (DeiT has two) contain what belongs to the whole image: every patch is given their mean.
            # Registers, which come after them, are a transformer's scratch paper.
            classes = self.network.num_prefix_tokens - self.network.num_reg_tokens
            taps = self.intermediates(images, return_prefix_tokens=True)
            return [patches + prefix[:, :classes].mean(1)[:, :, None, None] for patches, prefix in taps]

    def intermediates(self, images: Tensor, **options: bool) -> list[Any]:
        options |= {"intermediates_only": True, "stop_early": True}
        return self.network.forward_intermediates(images, indices=list(self.indices), **options)


def find_levels(network: Any, name: str, tokens: bool) -> tuple[int, ...]:
    """Return four taps for a network that TAPS does not know: the last levels, or blocks at every quarter."""
    levels = len(network.blocks) if tokens else len(getattr(network, "feature_info", ()))
    if not hasattr(network, "forward_intermediates") or levels < 4:
        raise ValueError(f"{name} does not offer four levels of features: {ALTERNATIVES}.")
    if tokens:
        return tuple(levels * quarter // 4 - 1 for quarter in (1, 2, 3, 4))
    return tuple(range(levels - 4, levels))
