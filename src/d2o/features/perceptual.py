"""The perceptual distance LPIPS: the squared differences of two images' VGG-16 features, at five depths.

(Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, arXiv 1801.03924.)
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import weights as weight_files
from .frozen import Frozen, FrozenMaps, Normalise

CHANNELS = (64, 128, 256, 512, 512)
SMALLEST = 2 ** (len(CHANNELS) - 1)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAME, LINEAR = "vgg16", "lpips_vgg"
"""How weight files are called in the folder $D2O_WEIGHTS: VGG-16's own, and those that LPIPS learned for it."""


class VGG(FrozenMaps):
    """Map images [N, 1 or 3, H, W] in [-1, 1] to VGG-16's maps before each halving and at its end (64 to 512 channels).

    Every place's feature vector has length 1. `size` resizes the images first; `weights` is one of
    `weights.SOURCES`: a file in torchvision's or timm's layout. Frozen; gradients reach the images.
    """

    def __init__(self, size: int | None = None, weights: str = "auto") -> None:
        super().__init__()
        self.normalise = Normalise(MEAN, DEVIATION, size)
        self.features: Any = weight_files.build(build_layers, NAME, weights, "features.")
        self.freeze()

    def forward(self, images: Tensor) -> list[Tensor]:
        side = self.normalise.size or min(images.shape[-2:])
        if side < SMALLEST:
            raise ValueError(f"VGG-16 halves its images four times, so {side} pixels are too few: use a size of 32.")
        with weight_files.precision_for(images.device):
            x, maps = self.normalise(images), []
            for layer in self.features:
                if isinstance(layer, nn.MaxPool2d):
                    maps.append(F.normalize(x, dim=1, eps=1e-10))
                x = layer(x)
            return [*maps, F.normalize(x, dim=1, eps=1e-10)]


class LPIPS(Frozen):
    """The distance [N] of images [N,C,H,W] in [-1, 1]: weighted squared differences of VGG-16's unit features.

    `linear` says where LPIPS' own 64 to 512 weights for each depth come from: a file, `auto` (the folder
    $D2O_WEIGHTS, or the installed package lpips), or `mean`, which counts all channels alike.
    """

    def __init__(self, size: int | None = 224, weights: str = "auto", linear: str = "auto") -> None:
        super().__init__()
        self.network = VGG(size, weights)
        alike = linear == "mean" or (linear == "auto" and weights.startswith("random"))
        rows = [torch.full((width,), 1 / width) for width in CHANNELS] if alike else read_linear(linear)
        for depth, row in enumerate(rows):
            self.register_buffer(f"linear{depth}", row)
        self.freeze()

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        total = images.new_zeros(len(images))
        for depth, (one, other) in enumerate(zip(self.network(images), self.network(others), strict=True)):
            difference = (one - other).square()
            total = total + torch.einsum("nchw,c->nhw", difference, getattr(self, f"linear{depth}")).mean((1, 2))
        return total


def read_linear(linear: str) -> list[Tensor]:
    """Return LPIPS' learned weights for each depth; ValueError where they cannot be found or do not fit."""
    package = importlib.util.find_spec("lpips")
    beside = Path(package.origin).parent / "weights/v0.1/vgg.pth" if package and package.origin else None
    if linear == "auto" and weight_files.find_in_folder(LINEAR) is None and beside and beside.is_file():
        linear = str(beside)
    state = weight_files.find_state(LINEAR, linear, download=refuse_download) or {}
    rows = [state.get(f"lin{depth}.model.1.weight", torch.empty(0)).flatten().float() for depth in range(len(CHANNELS))]
    if tuple(map(len, rows)) != CHANNELS:
        raise ValueError(f"linear={linear!r} contains no LPIPS weights for VGG (lin0.model.1.weight to lin4).")
    return rows


def refuse_download(name: str) -> Path:
    raise ValueError(
        f"LPIPS' weights for VGG are not on this machine: give their file as linear, put {name}.pth into the folder "
        f"${weight_files.FOLDER_VARIABLE}, pip install lpips, or use linear='mean', which counts all channels alike."
    )


def build_layers() -> nn.Sequential:
    """Return VGG-16's layers up to its last convolution."""
    from torchvision.models.vgg import cfgs, make_layers

    return make_layers(cfgs["D"])[:-1]
