"""The untrained networks that recipes are made for, so that a run can be tried without any weights."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch

from d2o import backbones
from d2o.backbones.text_to_image import TextToImage
from d2o.data.datasets import Batch
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import Epsilon
from d2o.diffusion.sampling import condition_for
from d2o.training.networks import new_denoiser
from d2o.training.recipe import Recipe
from d2o.training.recipes import BACKBONES, DATA, RECIPES

from .text_networks import PUBLISHED, STABLE_DIFFUSION, RandomAutoencoder, draw_text, make_published

T = TypeVar("T")
LATENT = "dit-"
"""The beginning of the names of recipes for DiT-XL/2 on latents of 256x256 images of ImageNet."""
DIT = {"kind": "dit", "resolution": 32, "in_channels": 4, "out_channels": 4, "num_classes": 1000}


def untrained_teacher(name: str, recipe: Recipe, device: str = "cpu") -> Denoiser:
    """Return the network of the size that a recipe is made for, with random weights; ValueError where it has none."""
    if name.startswith(LATENT):
        codec = RandomAutoencoder(STABLE_DIFFUSION, device)
        return Denoiser(backbones.build(DIT), Epsilon(), (4, 32, 32), 1000, codec=codec)
    if published := next((row for start, row in PUBLISHED.items() if name.startswith(f"{start}-")), None):
        return make_published(published, device, recipe.precision)
    start = next((start for start in DATA if name.startswith(start)), None)
    if start is None:
        raise ValueError(f"The recipe {name} is for networks of any size: name one with --from MODEL.")
    own = RECIPES.get(f"{start}-pretrain", recipe).backbone
    spec = recipe.backbone or own or BACKBONES[DATA[start].backbone]
    augmentation = RECIPES.get(name, recipe).augments
    return new_denoiser(spec, DATA[start].image_shape, DATA[start].num_classes, augmentation=augmentation)


def randomise_weights(record: T) -> T:
    """Return a recipe whose frozen networks have random weights: every field `weights`, at any depth, is "random"."""
    if isinstance(record, tuple):
        return tuple(map(randomise_weights, record))  # type: ignore[return-value]
    if not is_dataclass(record) or isinstance(record, type):
        return record
    values = {field.name: randomise_weights(getattr(record, field.name)) for field in fields(record)}
    return replace(record, **{**values, **({"weights": "random"} if "weights" in values else {})})


def draw_condition(student: Denoiser, places: Sequence[int]) -> Any:
    """Return what images of these places in the stream are told: classes or captions in turns, random text, or None."""
    if isinstance(student.backbone, TextToImage):
        return draw_text(student.backbone, len(places))
    return condition_for(student, places)


def noise_batches(student: Denoiser, batch_size: int) -> Iterator[Batch]:
    index, known = torch.arange(batch_size), () if student.reader is None else student.reader.examples
    while True:
        images = torch.rand(batch_size, *student.pixel_shape) * 2 - 1
        captions = tuple(known[place % len(known)] for place in index.tolist()) if known else None
        told = None if known else draw_condition(student, index.tolist())
        yield Batch(images, told, index, index, captions)  # type: ignore[arg-type]
        index = index + batch_size
