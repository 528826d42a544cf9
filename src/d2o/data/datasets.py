"""Data sets: images of one shape, and an endless shuffled stream of batches that is a function of (seed, start)."""

import hashlib
import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from .decoding import Decoder, make_decoder, open_image
from .files import to_float
from .source import Source
from .sources import find

CHECKED = 2_000  # images whose headers are read at opening
FINGERPRINTED = 64  # images whose pixels are hashed
MOST_CLASSES = 1 << 20  # a larger label is not a class number


class Triple(NamedTuple):
    """A batch of the stream: images [n, C, H, W] in [-1, 1], classes [n] or None, and places in the stream [n].

    `index` counts the images of the stream from 0: random numbers are a function of (seed, index).
    """

    x0: Tensor
    label: Tensor | None
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]  (hides tuple.index, which a batch never needs)


class Batch(Triple):
    """A batch that also knows the `number` [n] of each image in the data set, by which its features are cached."""

    number: Tensor

    def __new__(cls, x0: Tensor, label: Tensor | None, index: Tensor, number: Tensor) -> Self:
        batch = super().__new__(cls, x0, label, index)
        batch.number = number
        return batch


class Cache:
    """Decoded images, kept in memory for as many of the first images as fit."""

    def __init__(self, decode: Decoder, limit: int):
        channels, height, width = decode.shape
        fitting = min(len(decode.source.names), limit // (channels * height * width))
        self.decode, self.shape = decode, (height, width, channels)
        self.pixels = np.empty((fitting, *self.shape), np.uint8)  # takes memory only where it is written
        self.known = np.zeros(fitting, bool)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return uint8 [n, H, W, C], decoding what is not cached yet; threads may share it."""
        cached = indices < len(self.known)
        for index in np.unique(indices[cached]):
            if not self.known[index]:
                self.pixels[index] = self.decode(int(index))
                self.known[index] = True
        if cached.all():
            return self.pixels[indices]
        images = np.empty((len(indices), *self.shape), np.uint8)
        images[cached] = self.pixels[indices[cached]]
        for place in np.flatnonzero(~cached):
            images[place] = self.decode(int(indices[place]))
        return images


@dataclass(frozen=True)
class Images:
    """A data set of images of one shape (C, H, W), decoded when they are needed.

    `labels` are int64 [N] or None; `num_classes` is 0 without labels, and stays that of the whole set in a subset.
    """

    name: str
    shape: tuple[int, int, int]
    labels: np.ndarray | None = field(repr=False)
    num_classes: int
    order: np.ndarray = field(repr=False)  # which images of the cache are ours
    cache: Cache = field(repr=False)

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of count, shape, all labels, and the prepared pixels of 64 images from the first to the last.

        It does not depend on names and container. Of more than 64 images it is cheap, and no proof of equality.
        """
        found = hashlib.sha256(repr((len(self), *map(int, self.shape), self.labels is None)).encode())
        if self.labels is not None:
            found.update(self.labels.astype("<i8").tobytes())
        for index in spread(len(self), FINGERPRINTED):
            found.update(self.cache.decode(int(self.order[index])).tobytes())  # the cache would grow in memory
        return found.hexdigest()

    def pixels(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return images as uint8 [n, H, W, C]."""
        return self.cache.read(self.order[np.asarray(indices, np.int64)])

    def batches(
        self, batch_size: int, *, seed: int = 0, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Yield shuffled batches without end; the same `seed` and `start` (in images) give the same images.

        Every epoch is a fresh permutation; a batch may run over into the next epoch. Of each batch of `batch_size`
        process `rank` of `world` gets its share. Raises ValueError when the batch cannot be shared evenly.
        """
        if batch_size < 1 or start < 0 or not 0 <= seed < 2**64 or not 0 <= rank < world or batch_size % world:
            raise ValueError(
                "The stream of batches needs batch_size >= 1, a multiple of world, start >= 0, 0 <= seed < 2^64 and "
                f"0 <= rank < world, not {batch_size}, {world}, {start}, {seed} and {rank}."
            )
        share = batch_size // world
        return (self._batch(first, share, seed) for first in itertools.count(start + rank * share, batch_size))

    def _batch(self, first: int, size: int, seed: int) -> Batch:
        index = np.arange(first, first + size)
        epochs, places = np.divmod(index, len(self))
        chosen = np.empty_like(index)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = permute(len(self), seed, int(epoch))[places[here]]
        label = None if self.labels is None else torch.from_numpy(self.labels[chosen])
        return Batch(to_float(self.pixels(chosen)), label, torch.from_numpy(index), torch.from_numpy(chosen))

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Images":
        """Return the images at `indices` as a data set of its own, which shares the cache with this one."""
        indices = np.asarray(indices, np.int64)
        if not len(indices) or indices.min() < 0 or indices.max() >= len(self):
            raise ValueError(f"A subset of {self.name} needs at least one index, all from 0 to {len(self) - 1}.")
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, labels=labels, order=self.order[indices])

    def split(self, count: int, seed: int = 0) -> tuple["Images", "Images"]:
        """Return two random parts without common images: `count` images, and the rest."""
        if not 0 < count < len(self):
            raise ValueError(f"{self.name} has {len(self)} images and cannot be split at {count}.")
        order = permute(len(self), seed)
        return self.subset(np.sort(order[:count])), self.subset(np.sort(order[count:]))


def spread(count: int, most: int) -> list[int]:
    """Return at most so many of the numbers from 0 to `count` - 1, evenly, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, most).round().astype(np.int64)).tolist()


@lru_cache(maxsize=4)
def permute(count: int, seed: int, epoch: int = 0) -> np.ndarray:
    """Return the numbers from 0 to `count` - 1 in the random order of one epoch."""
    order = np.random.Generator(np.random.Philox(key=(seed << 64) + epoch)).permutation(count)
    order.setflags(write=False)
    return order


def open_images(
    source: str | Path,
    *,
    resolution: int | None = None,
    resize: str | None = None,
    labels: str = "auto",
    channels: int | None = None,
    background: str | None = None,
    num_classes: int | None = None,
    cache_bytes: int = 4 << 30,
) -> Images:
    """Open a data set: the built-in `digits`, an EDM zip, a folder, an .npz file or Hugging Face parquet files.

    `resize` (area, bilinear, lanczos, center-crop) brings the images to `resolution`; `channels` makes them all grey
    (1) or colour (3); transparent ones are shown on a `background` (white, black, grey, #rrggbb), or lose their alpha
    ("none"). `labels` is "auto", "none", or the name of the array or column that holds them; `num_classes` is
    one more than the largest label unless given. Up to `cache_bytes` of decoded images are kept in memory.
    Raises ValueError, naming the file and the remedy, for whatever does not fit.
    """
    found = find(source, labels)
    decode = make_decoder(found, resolution, resize, channels, background)
    for index in spread(len(found.names), CHECKED):
        header, _ = open_image(found, index)
        decode.check(header)
    classes = read_labels(found, num_classes)
    count = 0 if classes is None else num_classes or int(classes.max()) + 1
    order, cache = np.arange(len(found.names)), Cache(decode, cache_bytes)
    return Images(Path(found.path).stem, decode.shape, classes, count, order, cache)


def read_labels(source: Source, num_classes: int | None) -> np.ndarray | None:
    """Return the labels as int64 [N]; raises ValueError unless each image has a class number in range."""
    if source.labels is None:
        if num_classes:
            raise ValueError(f"{source.path} has no labels, but {num_classes} classes are asked for; add labels to it.")
        return None
    if len(source.labels) != len(source.names):
        raise ValueError(f"{source.path} has {len(source.names)} images but {len(source.labels)} labels; repair it.")
    limit = num_classes or MOST_CLASSES
    for index, label in enumerate(source.labels):
        if isinstance(label, bool | np.bool_) or not hasattr(label, "__index__"):
            raise ValueError(f"{source.image(index)} has the label {label!r:.99}, not an integer; add --labels none.")
        if not 0 <= operator.index(label) < limit:
            raise ValueError(f"{source.image(index)} has the label {label}, not one from 0 to {limit - 1}; correct it.")
    return np.array(source.labels, np.int64)
