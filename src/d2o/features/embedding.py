"""Spaces in which sets of images are compared: uint8 images in, one row of features per image out.

A space is a row of the table below: a frozen network, its input size and its pre-processing.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2o.diffusion.denoiser import autocast
from d2o.files import sha256_of

from . import weights as weight_files
from .frozen import Frozen

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SEEN = "ImageNet-1k"
CLIP_VIT, DINOV2 = "vit_base_patch32_clip_quickgelu_224.openai", "vit_large_patch14_dinov2.lvd142m"
INCEPTION_FOLDER = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True)
class Space:
    """One row: how to build the network, what it is, and what its input must look like.

    `build` takes the network's name, the weights and the size; `data` is what the network was trained on. `size` None
    keeps the images as they are; another size must be a `multiple`. `mean_std` belong to [0, 1]; None passes the uint8
    images on unchanged.
    """

    build: Callable[[str, str, int | None], nn.Module]
    network: str
    title: str
    family: str
    data: str
    size: int | None
    mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None
    multiple: int = 1


class Embedding(Frozen):
    """Map uint8 images [N, H, W, C] (numpy or tensor, C 1 or 3) to float32 features [N, D].

    The whole argument is one batch: the caller cuts long streams into chunks. Grey images are repeated to RGB.
    `name` is that of the space with its size.
    """

    def __init__(self, name: str, space: Space, size: int | None, weights: str) -> None:
        super().__init__()
        self.name = name if size is None else f"{name}@{size}"
        self.size, self.mean_std = size, space.mean_std
        self.extractor = space.build(space.network, weights, size)
        self.freeze()

    @torch.inference_mode()
    def forward(self, images: np.ndarray | Tensor) -> Tensor:
        # A copy: torch warns of arrays that it must not write to, as those of memory-mapped data sets.
        pixels = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
        if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or pixels.dtype != torch.uint8:
            raise ValueError(f"{self.name} takes uint8 [N, H, W, 1 or 3], not {pixels.dtype} {list(pixels.shape)}.")
        device = next((parameter.device for parameter in self.extractor.parameters()), pixels.device)
        pixels = pixels.to(device).permute(0, 3, 1, 2)
        return self.features(pixels if self.mean_std is None else pixels.float() / 255)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the features of images [N, C, H, W] in [0, 1], through which gradients flow.

        A space whose `mean_std` is None takes uint8 here, too.
        """
        with autocast(pixels.device, torch.float32):
            if self.mean_std is None:
                return self.extractor(pixels.expand(-1, 3, -1, -1)).float()
            return self.extractor(self.normalise(pixels, *self.mean_std)).float()

    def normalise(self, pixels: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
        """Resize [N, C, H, W] in [0, 1] to the space's size, then subtract its mean and divide by its deviation."""
        if self.size is not None:
            shape, shrinks = (self.size, self.size), self.size < max(pixels.shape[-2:])
            pixels = F.interpolate(pixels, shape, mode="bilinear", align_corners=False, antialias=shrinks)
        centre, width = (pixels.new_tensor(numbers)[:, None, None] for numbers in (mean, deviation))
        if len(mean) == 3:
            pixels = pixels.expand(-1, 3, -1, -1)
        return ((pixels - centre) / width).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class OwnSpace:
    """A space of one's own: a function of uint8 images [N, H, W, C] as a numpy array, to rows [N, D], array or tensor.

    Its name is the function's.
    """

    function: Callable[[np.ndarray], Any]

    @property
    def name(self) -> str:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return "own" if name == "<lambda>" else name

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> Tensor:
        rows = torch.as_tensor(self.function(images)).float()
        if rows.ndim != 2 or len(rows) != len(images):
            shape = list(rows.shape)
            raise ValueError(
                f"The features {self.name} of {len(images)} images must be [{len(images)}, D], not {shape}."
            )
        return rows


def embedding(name: str = "lite2", weights: str = "auto") -> Embedding:
    """Return the feature space `name` (a key of SPACES), or `NAME@SIZE` with another input size, such as lite2@224.

    `weights` is one of `weights.SOURCES`.
    """
    return Embedding(*find_space(name, weights), weights)


def find_space(name: str, weights: str) -> tuple[str, Space, int | None]:
    """Return key, row and size of a feature space, without its network; what is wrong with its name is a ValueError."""
    key, at, number = name.partition("@")
    space = SPACES.get(key)
    if space is None:
        raise ValueError(f"No feature space is named {key!r}: choose one of {', '.join(SPACES)}, or NAME@SIZE.")
    if at and not (number.isdecimal() and int(number) > 0):
        raise ValueError(f"The size in {name!r} must be a positive whole number, as in {key}@64.")
    size = int(number) if at else space.size
    if space.mean_std is None and size != space.size:
        raise ValueError(f"The feature space {key} exists at {space.size} pixels only: write {key!r}.")
    if size is not None and size % space.multiple:
        raise ValueError(f"The size of {key} must be a multiple of {space.multiple}, not {size}.")
    weight_files.find_file(space.network, weights)
    return key, space, size


def build_convolutional(name: str, weights: str, _size: int | None) -> nn.Module:
    """Build a timm network of convolutions, which take any size, that ends after its global pooling."""
    network: Any = weight_files.network(name, weights)
    network.reset_classifier(0)
    return network


def build_transformer(name: str, weights: str, size: int | None) -> nn.Module:
    """Build a timm vision transformer, whose position embeddings are resampled to the size."""
    return weight_files.network(name, weights, img_size=size)


def build_inception(name: str, weights: str, _size: int | None) -> nn.Module:
    """Build the Inception of the FID literature: torch-fidelity's port, with its own TensorFlow-like resizing."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Extractor(FeatureExtractorInceptionV3):
        """Ours reads the weights, as data: the port would unpickle them, and so run whatever code a file contains."""

        def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
            return super().load_state_dict(state_dict or self.state_dict(), strict, assign)

        def forward(self, x: Tensor) -> Any:
            return super().forward(x)[0]

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    make = partial(Extractor, "inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)
    return weight_files.build(make, name, weights, download=download_inception)


def download_inception(name: str) -> Path:
    """Return torch-fidelity's Inception weights, from torch's cache, ours, or by download."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        path = weight_files.download(name, f"{INCEPTION_FOLDER}/{INCEPTION_FILE}")
        if sha256_of(path)[:8] != INCEPTION_FILE[-12:-4]:  # as torch.hub has it, the name ends with the hash
            path.unlink()
            raise ValueError(f"{INCEPTION_FOLDER}/{INCEPTION_FILE} does not have the hash in its name: try again.")
    return path


SPACES = {
    "lite2": Space(build_convolutional, "tf_efficientnet_lite2", "EfficientNet-lite2", "EfficientNet", SEEN, 64, HALF),
    "lite0": Space(build_convolutional, "tf_efficientnet_lite0", "EfficientNet-lite0", "EfficientNet", SEEN, 64, HALF),
    "inception": Space(build_inception, "inception", "Inception-v3", "Inception-v3", SEEN, 299, None),
    "clip": Space(build_transformer, CLIP_VIT, "CLIP ViT-B/32", "CLIP ViT", "OpenAI", 224, CLIP, 32),
    "dinov2": Space(build_transformer, DINOV2, "DINOv2 ViT-L/14", "DINOv2 ViT", "LVD-142M", 224, IMAGENET, 14),
    "pixels": Space(lambda *_: nn.Flatten(), "pixels", "pixel", "", "", None, ((0.5,), (0.5,))),
}
