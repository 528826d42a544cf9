"""The untrained networks that the presets are made for, so that a run can be tried without any weights."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from d2o import backbones
from d2o.data.datasets import Batch
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import Epsilon

from .networks import new_denoiser
from .recipe import Recipe
from .recipes import BACKBONES, DATA, RECIPES

T = TypeVar("T")
LATENT = "dit-"
"""The beginning of the names of recipes for DiT-XL/2 on latents of 256x256 images of ImageNet."""
DIT = {"kind": "dit", "channels": 1152, "num_blocks": 28, "num_heads": 16, "patch_size": 2, "num_classes": 1000}
SMALL = ("digits", "cifar10-small")
PRESETS = tuple(name for name in RECIPES if name.startswith((*DATA, LATENT)) and not name.startswith(SMALL))
"""The recipes of full-size networks."""


def untrained_teacher(name: str, recipe: Recipe, device: str = "cpu") -> Denoiser:
    """Return the network of the size that a preset is made for, with random weights; ValueError for other recipes."""
    for start, data in DATA.items():
        if name.startswith(start):
            own = RECIPES.get(f"{start}-pretrain", recipe).backbone
            spec = recipe.backbone or own or BACKBONES[data.backbone]
            augmentation = RECIPES.get(name, recipe).augments
            return new_denoiser(spec, data.image_shape, data.num_classes, augmentation=augmentation)
    if not name.startswith(LATENT):
        raise ValueError(f"The recipe {name} is for networks of any size: name one with --from MODEL.")
    backbone = backbones.build({**DIT, "resolution": 32, "in_channels": 4, "out_channels": 4})
    return Denoiser(backbone, Epsilon(), (4, 32, 32), 1000, codec=RandomDecoder(device))


def randomise_weights(record: T) -> T:
    """Return a recipe whose frozen networks have random weights: every field `weights`, at any depth, is "random"."""
    if isinstance(record, tuple):
        return tuple(map(randomise_weights, record))  # type: ignore[return-value]
    if not is_dataclass(record) or isinstance(record, type):
        return record
    changes = {
        field.name: "random" if field.name == "weights" else randomise_weights(getattr(record, field.name))
        for field in fields(record)
    }
    return replace(record, **changes)


def noise_batches(student: Denoiser, batch_size: int) -> Iterator[Batch]:
    """Yield batches of random images without end, all of them new."""
    start = 0
    while True:
        index = torch.arange(start, start + batch_size)
        images = torch.rand(batch_size, *student.pixel_shape) * 2 - 1
        yield Batch(images, index % student.num_classes if student.num_classes else None, index, index)
        start += batch_size


@dataclass(frozen=True)
class RandomDecoder:
    """Stable Diffusion's autoencoder with random weights."""

    device: str

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [N,4,h,w] of images [N,3,8h,8w]."""
        return stable_diffusion(self.device).encode(images).latent_dist.mode().detach()

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [N,3,8h,8w] of latents [N,4,h,w]."""
        return stable_diffusion(self.device).decode(latents).sample

    def pixel_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape of the images of latents of this shape."""
        return 3, 8 * latent_shape[1], 8 * latent_shape[2]


@lru_cache(maxsize=1)
def stable_diffusion(device: str) -> Any:
    """Return the autoencoder, frozen; its decoder runs again for the gradient, as `Autoencoder`'s does."""
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise ValueError("Latent images need diffusers: pip install -e '.[diffusers]' in d2o's folder.") from error
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    settings: dict[str, Any] = {**levels, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    with torch.device(device):
        network = AutoencoderKL(**settings)
    network.eval().requires_grad_(False).enable_gradient_checkpointing()
    return network
