"""Coloured shapes with captions: `shapes`, a text-to-image task of 16 x 16 pixels that can be checked exactly.

Image i of a split is a function of i: one of 180 meanings (size, colour, shape, place) in one of three wordings, with
jitter, brightness, ground and noise. A fifth of the meanings is never in the split `train`; every word of them is.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from .source import Captions, Source

SIDE = 16
IMAGES = {"train": 50_000, "test": 10_000}
"""Images of each split: `test` has the meanings that are held out."""
RADII = {"small": 2.4, "large": 4.1}
COLOURS = {
    "red": (1.0, -0.8, -0.8), "green": (-0.8, 0.8, -0.8), "blue": (-0.7, -0.6, 1.0), "yellow": (1.0, 0.9, -0.8),
    "purple": (0.8, -0.8, 0.9), "white": (1.0, 1.0, 1.0),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle")
CENTRES = {"left": (7.5, 4.5), "right": (7.5, 10.5), "top": (4.5, 7.5), "bottom": (10.5, 7.5), "middle": (7.5, 7.5)}
"""Row and column."""
JITTERS = (-1, 0, 1)
WORDINGS = (
    "a {size} {colour} {shape} at the {place}",
    "{place} : a {colour} {shape} , {size}",
    "there is a {shape} , {size} and {colour} , at the {place}",
)


class Meaning(NamedTuple):
    """What a caption says."""

    size: str
    colour: str
    shape: str
    place: str

    def caption(self, wording: int = 0) -> str:
        return WORDINGS[wording].format(**self._asdict())

    @property
    def held_out(self) -> bool:
        words = (list(RADII), list(COLOURS), SHAPES, list(CENTRES))
        size, colour, shape, place = (row.index(word) for row, word in zip(words, self, strict=True))
        return (size + colour + 2 * shape + place) % 5 == 0


MEANINGS = [Meaning(*words) for words in product(RADII, COLOURS, SHAPES, CENTRES)]
SPLITS = {
    "train": [meaning for meaning in MEANINGS if not meaning.held_out],
    "test": [meaning for meaning in MEANINGS if meaning.held_out],
}
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE].astype(np.float32)


def draw_mask(size: str, shape: str, row: float, column: float) -> np.ndarray:
    """Return where a shape covers the image, 0 or 1 [16, 16]."""
    radius, down, across = RADII[size], ROWS - row, COLUMNS - column
    if shape == "circle":
        return (down**2 + across**2 <= (1.08 * radius) ** 2).astype(np.float32)
    if shape == "square":
        return ((abs(down) <= 0.92 * radius) & (abs(across) <= 0.92 * radius)).astype(np.float32)
    return ((abs(down) <= radius) & (abs(across) <= 0.62 * (down + radius))).astype(np.float32)


def plan(split: str, number: int) -> tuple[Meaning, str, np.random.Generator]:
    """Return the meaning and the caption of a place in a split, and the random numbers that its image begins with."""
    random = np.random.Generator(np.random.Philox(key=[number, list(IMAGES).index(split)]))
    meanings = SPLITS[split]
    meaning, wording = meanings[random.integers(len(meanings))], int(random.integers(len(WORDINGS)))
    return meaning, meaning.caption(wording), random


def draw(split: str, number: int) -> np.ndarray:
    """Return the image [16, 16, 3] uint8 of a place in a split."""
    meaning, _, random = plan(split, number)
    (row, column), jitter = CENTRES[meaning.place], random.choice(JITTERS, 2)
    mask = draw_mask(meaning.size, meaning.shape, row + jitter[0], column + jitter[1])[..., None]
    ground, brightness = random.uniform(-0.75, -0.55), random.uniform(0.75, 1.0)
    image = ground + (brightness * np.array(COLOURS[meaning.colour]) - ground) * mask
    image += 0.03 * random.standard_normal(image.shape)
    return ((image.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)


def open_splits(splits: Sequence[str], ignored: Sequence[str] = ()) -> Source:
    """Return the images of splits, with their captions."""
    places = [(split, number) for split in splits for number in range(IMAGES[split])]
    names = [f"{split} {number}" for split, number in places]
    captions = Captions("drawn with them", lambda index: plan(*places[index])[1])
    return Source("shapes", names, lambda index: draw(*places[index]), None, ignored=ignored, captions=captions)
