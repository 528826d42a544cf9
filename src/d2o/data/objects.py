"""Images that a program holds itself, as a `Source`: torch's data sets and loaders, lists, arrays and tensors."""

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from d2o.errors import describe

from .source import Source

LOOKED_AT = 32  # images of which the range of floats, and whether transforms are random, is found
MODES = {"1": "L", "L": "L", "LA": "RGBA", "P": "RGBA", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA"}
DARK, OVER = 0.25, 1e-3  # where ranges differ for sure, and how far rounding may lead out of them
RANGES = "from 0 to 1, or from -1 to 1"
log = logging.getLogger("d2o")


def from_objects(held: Any, labels: str = "auto", most_bytes: int = 4 << 30) -> Source:
    """Return as a source what has a length and items: images, or pairs of an image and its class number.

    Of a DataLoader its data set. Images are PIL's, or tensors and arrays [C,H,W], [H,W,C] or [H,W] of uint8, or of
    floats. The smallest of many decides of the range of floats: -1 to 1 where it is clearly below 0, 0 to 1 where it is
    dark and not below; in between it is a ValueError, and so is a number outside of the range. Transforms are those of
    the data set. Random ones are drawn once for each image, whose number is the seed, and the images are kept in
    memory: of more than `most_bytes` that is a ValueError.
    """
    data = held.dataset if hasattr(held, "collate_fn") else held
    name = type(data).__name__
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")) or isinstance(data, dict):
        raise ValueError(f"{name} is not a data set: give a path, or an object with length and items, images or pairs.")
    if not len(data):
        raise ValueError(f"This {name} is empty: give it images.")
    if labels not in ("auto", "none"):
        raise ValueError(f"{name} has no labels named {labels!r}: use labels='auto' or 'none'.")
    lock, count = Lock(), len(data)  # few data sets expect to be asked by several threads at once

    def read(index: int) -> tuple[Any, Any]:
        with lock:
            item = data[index]
        parts = item if isinstance(item, tuple | list) else (item,)
        if not 1 <= len(parts) <= 2:
            raise ValueError(f"it has {len(parts)} parts, and is not an image or a pair of image and class")
        return parts[0], parts[1] if len(parts) == 2 else None

    def try_all(indices: Any, work: Callable[[int], Any]) -> list[Any]:
        found = []
        for index in indices:
            try:
                found.append(work(index))
            except Exception as error:  # of the user's own code
                raise ValueError(f"image {index} of this {name} cannot be used ({describe(error)}).") from error
        return found

    def draw(index: int, salt: int = 0) -> np.ndarray:
        with seeded(index + salt):
            return to_array(read(index)[0])

    looked_at = np.unique(np.linspace(0, count - 1, LOOKED_AT).round().astype(int)).tolist()
    first, second = (try_all(looked_at, lambda index, salt=salt: draw(index, salt)) for salt in (0, count))
    floats = [image.min() for image in first if image.dtype != np.uint8]
    lowest = find_range(min(floats), name) if floats else 0.0
    named = [f"image {index}" for index in range(count)]
    found = None
    with seeded(0):
        if labels == "auto" and read(0)[1] is not None:
            found = list_labels(data, looked_at) or try_all(range(count), lambda index: to_number(read(index)[1]))
    classes = getattr(data, "classes", ())
    classes = dict(enumerate(classes)) if all_texts(classes) and len({*classes}) == len(classes) else {}

    if all(map(np.array_equal, first, second)):
        return Source(name, named, lambda index: to_levels(to_array(read(index)[0]), lowest), found, classes)
    if (size := count * first[0].size) > most_bytes:
        raise ValueError(
            f"The transforms of this {name} are random: an image is transformed once and kept, and {count:,} of them "
            f"take {size / 2**30:.1f} GiB. Leave the random ones out, or give more cache_bytes."
        )
    log.info("%s: its transforms are random, and each of %s images is transformed once.", name, f"{count:,}")
    kept = try_all(range(count), lambda index: to_levels(draw(index), lowest))
    return Source(name, named, kept.__getitem__, found, classes)


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """Let what is drawn by torch, numpy and Python be a function of a number, and leave no trace of it."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(number)
        np.random.seed(number % 2**32)
        torch.manual_seed(number)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def to_array(image: Any) -> np.ndarray:
    """Return an image as an array [H,W,C] of uint8 or floats; tensors of either order are [C,H,W], arrays [H,W,C]."""
    if isinstance(image, PIL.Image.Image):
        if image.mode not in MODES:
            raise ValueError(f"it has the colour mode {image.mode}: convert it to RGB or L")
        mode = MODES[image.mode]
        image = np.asarray(image.convert("RGB" if mode == "RGBA" and not image.has_transparency_data else mode))
    order = (0, 2) if isinstance(image, Tensor) else (2, 0)
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if not isinstance(image, np.ndarray):
        raise ValueError(f"it is of the type {type(image).__name__}, not a PIL image, a tensor or an array")
    array = image[..., None] if image.ndim == 2 else image
    axis = next((axis for axis in order if array.ndim == 3 and array.shape[axis] in (1, 3, 4)), None)
    if axis is None or not array.size or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        raise ValueError(f"it is {image.dtype} {list(image.shape)}, not uint8 or floats of 1, 3 or 4 channels")
    return np.moveaxis(array, axis, -1)


def find_range(lowest: float, name: str) -> float:
    """Return where the range of floats begins, by the smallest of many: -1 or 0."""
    if lowest <= -DARK:
        return -1.0
    if -OVER <= lowest < DARK:
        return 0.0
    raise ValueError(
        f"It is not sure whether the images of this {name}, whose smallest number is {lowest:.3g}, reach {RANGES}: "
        "give them as uint8, or clamp them."
    )


def to_levels(image: np.ndarray, lowest: float) -> np.ndarray:
    """Return an image as uint8, its floats between `lowest` and 1 rounded to 256 levels."""
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    least, most = image.min(), image.max()
    if not (least >= lowest - OVER and most <= 1 + OVER):
        raise ValueError(
            f"its numbers are from {least:.3g} to {most:.3g}, and floats of these images must be from {lowest:g} to 1: "
            "normalise by no other mean and deviation than 0.5, or give uint8"
        )
    return np.floor((image.astype(np.float64).clip(lowest, 1) - lowest) * (255 / (1 - lowest)) + 0.5).astype(np.uint8)


def list_labels(data: Any, looked_at: list[int]) -> list[Any] | None:
    """Return the labels that a data set lists, as torchvision's do, if they are those of its items."""
    for name in ("targets", "labels"):
        listed = getattr(data, name, None)
        if isinstance(listed, list | tuple | np.ndarray | Tensor) and len(listed) == len(data):
            numbers = list(map(to_number, listed))
            if all(numbers[index] == to_number(data[index][1]) for index in looked_at):
                return numbers
    return None


def to_number(label: Any) -> Any:
    """Return a number in place of a tensor or array of one."""
    return (
        label.item() if isinstance(label, Tensor | np.ndarray | np.generic) and len(label.reshape(-1)) == 1 else label
    )


def all_texts(names: Any) -> bool:
    return isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
