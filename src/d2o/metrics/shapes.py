"""An exact check of the images of `shapes`: which size, colour, shape and place they show, and how cleanly.

Every mask that a caption can mean is laid over the image; the one with the largest share of common pixels tells size,
shape and place, and the mean colour under what stands out the colour. Real images are always read right.
"""

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import torch

from d2o.data.files import to_uint8
from d2o.data.shapes import CENTRES, COLOURS, JITTERS, RADII, SHAPES, SPLITS, WORDINGS, Meaning, draw_mask
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate

from .counting import Counted, unshown

STANDS_OUT = 0.5
"""Share of the largest distance from the ground's colour from which a pixel belongs to the shape."""
FAINT = 0.6
"""The least that counts as the largest distance, in image units: noise is no shape."""
MIDDLE = -0.65
"""The ground's mean brightness: colours are compared by their direction from there."""


class Score(NamedTuple):
    """The shares of images that show what was asked, in all and in each word, and the mean `fit`.

    `fit` is the intersection over union of an image's shape with the nearest mask of any caption: 1 is a clean shape.
    """

    all_right: float
    size: float
    colour: float
    shape: float
    place: float
    fit: float


WORDS = Score._fields


def ask(
    denoiser: Denoiser, split: str, *, steps: int = 1, images: int = 5, title: str = "", counted: Counted = unshown
) -> tuple[np.ndarray, list[Meaning]]:
    """Return so many images of each meaning in a split, made by Euler's sampler in `steps` calls, and their meanings.

    Images are uint8 [N, 16, 16, 3].
    """
    asked = [meaning for meaning in SPLITS[split] for _ in range(images)]
    captions = [meaning.caption(number % len(WORDINGS)) for number, meaning in enumerate(asked)]
    batches = generate(denoiser, range(len(asked)), steps=steps, condition=captions, sampler="euler", batch_size=144)
    return to_uint8(torch.cat(list(counted(batches, len(asked), title)))), asked


def score(pixels: np.ndarray, asked: Sequence[Meaning]) -> Score:
    """Return how far uint8 images [N, 16, 16, 3] show what was asked."""
    seen, fit = read_images(pixels)
    right = np.array([[a == b for a, b in zip(*pair, strict=True)] for pair in zip(seen, asked, strict=True)])
    size, colour, shape, place = map(float, right.mean(0))
    return Score(float(right.all(1).mean()), size, colour, shape, place, float(fit.mean()))


def read_images(pixels: np.ndarray) -> tuple[list[Meaning], np.ndarray]:
    """Return what uint8 images [N, 16, 16, 3] show, and how well the nearest mask fits each [N]."""
    found, difference = find_shapes(pixels)
    table, masks = list_masks()
    share = overlap(found, masks)
    mean = (difference * found[..., None]).sum(1) / found.sum(1, keepdims=True).clip(min=1)
    palette = np.array(list(COLOURS.values()), np.float32) - MIDDLE
    palette /= np.linalg.norm(palette, axis=1, keepdims=True)
    colours = [list(COLOURS)[number] for number in (mean @ palette.T).argmax(1)]
    rows = [table[number] for number in share.argmax(1)]
    seen = [Meaning(size, colour, shape, place) for (size, shape, place), colour in zip(rows, colours, strict=True)]
    return seen, share.max(1)


def find_shapes(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what stands out of images, 0 or 1 [N, 256], and how all pixels differ from the ground [N, 256, 3]."""
    images = pixels.astype(np.float32).reshape(len(pixels), -1, 3) / 127.5 - 1
    difference = images - np.median(images, axis=1, keepdims=True)
    distance = np.linalg.norm(difference, axis=2)
    return (distance > STANDS_OUT * distance.max(1, keepdims=True).clip(min=FAINT)).astype(np.float32), difference


def overlap(found: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the intersection over union of shapes [N, 256] with masks [M, 256]: [N, M]."""
    common = found @ masks.T
    return common / (found.sum(1, keepdims=True) + masks.sum(1) - common).clip(min=1)


@cache
def list_masks() -> tuple[list[tuple[str, str, str]], np.ndarray]:
    """Return size, shape and place of every mask, and the masks [M, 256]."""
    table, masks = [], []
    for size, shape, place in product(RADII, SHAPES, CENTRES):
        for down, across in product(JITTERS, JITTERS):
            row, column = CENTRES[place]
            table.append((size, shape, place))
            masks.append(draw_mask(size, shape, row + down, column + across).ravel())
    return table, np.stack(masks)
