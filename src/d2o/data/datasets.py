"""Data sets: images of one shape, and an endless shuffled stream of batches that is a function of (seed, start)."""

import hashlib
import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.errors import printable

from .captions import pick_captions, read_captions
from .classes import describe_classes, number_classes
from .decoding import Decoder, make_decoder, open_image
from .encodings import Decoded, Encodings, is_encodings
from .files import to_float
from .prefetch import prefetch
from .shuffling import permute, shuffle
from .source import LabelError
from .sources import find

CHECKED = 2_000  # images whose headers are read at opening
FINGERPRINTED = 64  # images whose pixels are hashed
log = logging.getLogger("d2o")


class Triple(NamedTuple):
    """A batch of the stream: images [n, C, H, W] in [-1, 1], classes [n] or None, and places in the stream [n].

    Images are None where the batch has `latents`. Random numbers are a function of (seed, index), counted from 0.
    """

    x0: Tensor | None
    label: Tensor | None
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]  (hides tuple.index, which a batch never needs)


class Batch(Triple):
    """A batch that also knows the `number` [n] of each image in the data set, by which its features are cached.

    `captions` are one text an image, or None for data without; `latents` [n, c, h, w] what the codec of a model made of
    the images, for data that were encoded before.
    """

    number: Tensor
    captions: tuple[str, ...] | None
    latents: Tensor | None

    def __new__(
        cls,
        x0: Tensor | None,
        label: Tensor | None,
        index: Tensor,
        number: Tensor,
        captions: tuple[str, ...] | None = None,
        latents: Tensor | None = None,
    ) -> Self:
        batch = super().__new__(cls, x0, label, index)
        batch.number, batch.captions, batch.latents = number, captions, latents
        return batch


class Cache:
    """Decoded images, kept in memory for as many of the first images as fit."""

    def __init__(self, decode: Decoder | Decoded, limit: int):
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

    `labels` are int64 [N] or None; `classes` are the names of their numbers, none without labels, and stay those of the
    whole set in a subset. Those that are `captioned` have texts. Of `encodings` batches have latents instead of pixels.
    """

    name: str
    shape: tuple[int, int, int]
    labels: np.ndarray | None = field(repr=False)
    classes: tuple[str, ...]
    order: np.ndarray = field(repr=False)  # which images of the cache are ours
    cache: Cache = field(repr=False)
    given: Mapping[str, int] | None = field(default=None, repr=False)  # the numbers of classes that the user gave
    captioned: bool = False
    encodings: Encodings | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.order)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def counts(self) -> np.ndarray:
        """How many images each class has, int64 [K]."""
        return np.bincount(() if self.labels is None else self.labels, minlength=self.num_classes)

    def describe(self) -> str:
        """Return in a sentence what was found: images, their shape, classes, and what was ignored."""
        channels, height, width = self.shape
        found = f"{self.name}: {len(self):,} images of {channels}x{height}x{width}"
        classes = "no classes" if self.labels is None else describe_classes(self.classes, self.counts.tolist())
        source = self.cache.decode.source
        if self.captioned and source.captions is not None:
            classes += f"; all {len(self):,} with captions ({source.captions.origin})"
        return printable(f"{found}; {classes}; ignored: {', '.join(source.ignored) or 'nothing'}")

    def for_model(self, num_classes: int, names: Sequence[str] = (), text: bool = False) -> "Images":
        """Return the images with the class numbers of a model, as `open_images` would open them for it.

        One that reads no `text` gets no captions, which cost time to read.
        """
        images = self if text else replace(self, captioned=False)
        if self.labels is None or not num_classes or self.encodings is not None:  # which have a model's numbers
            return images
        labels, classes = number_classes(self.cache.decode.source, num_classes, self.given, names)
        if labels is None or classes == self.classes:
            return images
        return tell(replace(images, labels=labels[self.order], classes=classes))

    def attach(self, denoiser: Denoiser) -> Denoiser:
        """Return a model that trains on these images: encodings take its text encoders' place, if they are its own."""
        if self.encodings is None:
            return denoiser
        self.cache.decode = Decoded(self.encodings, denoiser.codec)
        return self.encodings.attach(denoiser)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of count, shape, all labels, and pixels and captions of 64 images from the first to the last.

        It does not depend on names and container. Of more than 64 images it is cheap, and no proof of equality.
        """
        found = hashlib.sha256(repr((len(self), *map(int, self.shape), self.labels is None)).encode())
        if self.labels is not None:
            found.update(self.labels.astype("<i8").tobytes())
        if self.encodings is not None:
            about = self.encodings.about
            found.update(repr((about.fingerprint, about.codec_sha256, about.encoders_sha256)).encode())
            found.update(self.order.astype("<i8").tobytes())
            return found.hexdigest()
        for index in spread(len(self), FINGERPRINTED):
            found.update(self.cache.decode(int(self.order[index])).tobytes())  # the cache would grow in memory
            found.update(repr(self.captions(index)).encode() if self.captioned else b"")
        return found.hexdigest()

    def pixels(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return images as uint8 [n, H, W, C]."""
        return self.cache.read(self.order[np.asarray(indices, np.int64)])

    def captions(self, index: int) -> tuple[str, ...]:
        """Return the captions of an image, one or more; raises ValueError for one that cannot be read."""
        return read_captions(self.cache.decode.source, int(self.order[index])) if self.captioned else ()

    def batches(
        self, batch_size: int, *, seed: int = 0, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Yield shuffled batches without end; the same `seed` and `start` (in images) give the same images.

        Every epoch is a fresh permutation; a batch may run over into the next. Of several captions an image has one at
        random. Process `rank` of `world` gets its share of each batch; threads make some ahead. Raises ValueError when
        a batch cannot be shared evenly.
        """
        if batch_size < 1 or start < 0 or not 0 <= seed < 2**64 or not 0 <= rank < world or batch_size % world:
            raise ValueError(
                "The stream of batches needs batch_size >= 1, a multiple of world, start >= 0, 0 <= seed < 2^64 and "
                f"0 <= rank < world, not {batch_size}, {world}, {start}, {seed} and {rank}."
            )
        share = batch_size // world
        firsts = itertools.count(start + rank * share, batch_size)
        return prefetch(partial(self._batch, size=share, seed=seed), firsts, 4 * share * math.prod(self.shape))

    def _batch(self, first: int, size: int, seed: int) -> Batch:
        index = np.arange(first, first + size)
        epochs, places = np.divmod(index, len(self))
        chosen = np.empty_like(index)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = shuffle(places[here], len(self), seed, int(epoch))
        label = None if self.labels is None else torch.from_numpy(self.labels[chosen])
        captions = pick_captions(map(self.captions, chosen.tolist()), index, seed) if self.captioned else None
        x0 = to_float(self.pixels(chosen)) if self.encodings is None else None
        latents = None if self.encodings is None else self.encodings.latents(self.order[chosen])
        return Batch(x0, label, torch.from_numpy(index), torch.from_numpy(chosen), captions, latents)

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


def tell(images: Images) -> Images:
    log.info("%s", images.describe())
    return images


def open_images(
    source: str | Path | Any,
    *,
    resolution: int | None = None,
    resize: str | None = None,
    labels: str = "auto",
    split: str | None = None,
    channels: int | None = None,
    background: str | None = None,
    num_classes: int | None = None,
    classes: Mapping[str, int] | None = None,
    class_names: Sequence[str] = (),
    captions: str = "auto",
    cache_bytes: int = 4 << 30,
) -> Images:
    """Open a data set: the built-in `digits`, a zip or folder of images, an .npz file, parquet files or tar shards.

    Or what a program holds: a Dataset or DataLoader of torch, a list, array or tensor (see `objects.from_objects`).
    `resize` (area, bilinear, lanczos, center-crop) brings the images to `resolution`; `channels` makes them all grey
    (1) or colour (3); transparent ones are shown on a `background` (white, black, grey, #rrggbb), or lose their alpha
    ("none"). `labels` is "auto", "none", "folders", or the name of the array or column that holds them;
    `split` the name of a split or "all", by default the one for training. The classes are those that have images, or
    `num_classes` of a model, `class_names` if it knows them; `classes` says which number each name has. `captions` is
    "auto", "none", or the name of the column or key that holds them ("txt": of the files). Up to `cache_bytes` of
    decoded images are kept in memory. What was found is logged. ValueErrors name the file and the remedy.
    """
    if is_encodings(source):
        options = {"resolution": resolution, "resize": resize, "channels": channels, "background": background}
        return open_encodings(source, labels, captions, cache_bytes, options | {"split": split, "classes": classes})
    try:
        found = find(source, labels, split, captions, cache_bytes)
        numbers, names = number_classes(found, num_classes, classes, class_names)
    except LabelError as error:
        raise ValueError(f"{error}{'' if num_classes else ', or add --labels none'}.") from error
    captioned = found.captions is not None
    decode = make_decoder(found, resolution, resize, channels, background)
    for index in spread(len(found.names), CHECKED):
        decode.check(open_image(found, index)[0])
        if captioned:
            read_captions(found, index)
    order, cache = np.arange(len(found.names)), Cache(decode, cache_bytes)
    return tell(Images(Path(found.path).stem, decode.shape, numbers, names, order, cache, classes, captioned))


def open_encodings(
    path: str | Path, labels: str, captions: str, cache_bytes: int, options: Mapping[str, object]
) -> Images:
    """Open what `d2o encode` has written; raises ValueError for options which come too late."""
    late = [name for name, value in options.items() if value is not None]
    late += [name for name, value in (("labels", labels), ("captions", captions)) if value not in ("auto", "none")]
    if late:
        raise ValueError(f"{path} has been encoded already: leave --{late[0]} out, or give it to d2o encode.")
    encodings = Encodings(path)
    about, decode = encodings.about, Decoded(encodings, encodings.about.codec)
    numbers = None if labels == "none" else encodings.labels
    captioned, order = about.captioned and captions != "none", np.arange(about.images)
    classes, cache = () if numbers is None else about.classes, Cache(decode, cache_bytes)
    return tell(Images(about.name, about.shape, numbers, classes, order, cache, None, captioned, encodings))
