"""Differentiable augmentation of the images that a discriminator sees, real and generated alike (arXiv 2006.10738).

The gradient passes through, so the generator never learns to make augmented images.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Name = Literal["color", "translation", "cutout"]
DRAWS = 3
"""Uniform random numbers per image and augmentation."""
REACH, HOLE = 1 / 8, 1 / 2
"""The longest translation, and the side of the cutout, as shares of the image's side."""


def color(images: Tensor, draw: Tensor) -> Tensor:
    """Change brightness (by -0.5 to 0.5), saturation (0 to 2 times) and contrast (0.5 to 1.5 times)."""
    brightness, saturation, contrast = draw.view(-1, DRAWS, 1, 1, 1).unbind(1)
    images = images + brightness - 0.5
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def translation(images: Tensor, draw: Tensor) -> Tensor:
    """Translate by whole pixels, up to an eighth of the side, filling with black, the value -1."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device) + draw_shift(draw[:, 0], height)[:, None]
    columns = torch.arange(width, device=images.device) + draw_shift(draw[:, 1], width)[:, None]
    known = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    place = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    moved = images.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, images.shape[1], -1))
    return torch.where(known, moved.view_as(images), -1.0)


def cutout(images: Tensor, draw: Tensor) -> Tensor:
    """Grey out, with the value 0, a square of half the side around a random centre."""
    height, width = images.shape[2:]
    hole = (cover(draw[:, 0], height, images)[:, :, None] & cover(draw[:, 1], width, images)[:, None, :])[:, None]
    return images.masked_fill(hole, 0.0)


def draw_shift(draw: Tensor, side: int) -> Tensor:
    """Return whole numbers [N] of pixels from uniform numbers [N], symmetric around 0."""
    most = int(side * REACH + 0.5)
    return (draw * (2 * most + 1)).long().clamp(max=2 * most) - most


def cover(draw: Tensor, side: int, images: Tensor) -> Tensor:
    """Return which places [N, side] of one axis a hole around the centre `draw` [N] covers."""
    first = (draw * side).long()[:, None] - int(side * HOLE) // 2
    place = torch.arange(side, device=images.device)
    return (place >= first) & (place < first + int(side * HOLE))


AUGMENTATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}


def augment(images: Tensor, names: Sequence[Name], draws: Tensor) -> Tensor:
    """Apply the named augmentations to images [N,C,H,W] in [-1, 1]; `draws` [N, 3 len(names)] is uniform in (0, 1)."""
    for name, draw in zip(names, draws.split(DRAWS, 1) if names else (), strict=True):
        images = AUGMENTATIONS[name](images, draw)
    return images
