"""Anything that can be judged becomes a stream of uint8 batches, or stored statistics."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2o import checkpoints
from d2o.data.codec import check_pixels
from d2o.data.datasets import Images, open_images
from d2o.data.files import to_uint8
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate, labels_for

from . import statistics
from .statistics import Features

CHECKPOINT_SUFFIXES = (".safetensors", ".pkl", ".pt", ".pth", ".ckpt")
CHECKPOINT_FILES = ("ema.safetensors", "model_index.json", "config.json")
"""A folder with one of these holds a run or a model rather than images."""


@dataclass(frozen=True)
class Stream:
    """Images to look at once: `count` of them in uint8 batches [n,H,W,C]; `image_shape` is (C, H, W).

    `seeds` is None unless a generator makes the images; `judged_by` names its discriminator's feature networks.
    """

    name: str
    count: int
    image_shape: tuple[int, int, int]
    batches: Iterator[np.ndarray]
    labels: np.ndarray | None = None
    seeds: tuple[int, ...] | None = None
    judged_by: tuple[str, ...] = ()


Source = Denoiser | Images | np.ndarray | Features | Stream | str | Path
"""A generator, a data set, uint8 images [N,H,W,C], stored statistics, a stream, or the path or name of one of them."""


def open_source(
    source: Source, *, images: int, seeds: Sequence[int], steps: int, batch_size: int, device: torch.device | str
) -> Stream | Features:
    """Return a stream of at most `images` images (a fixed random choice), or of one generated image a seed."""
    if isinstance(source, str | Path):
        path = Path(source)
        if statistics.holds_statistics(path):
            return statistics.load(path)
        if is_checkpoint(path):
            denoiser = checkpoints.load(path).to(device)
            return generated(denoiser, seeds, steps=steps, batch_size=batch_size, name=path.stem)
        source = open_images(source)
    if isinstance(source, Features | Stream):
        return source
    if isinstance(source, Denoiser):
        return generated(source, seeds, steps=steps, batch_size=batch_size)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 4:
            raise ValueError(f"Images in memory must be uint8 [N,H,W,C], not {source.dtype} {list(source.shape)}.")
        _, height, width, channels = source.shape
        shape, labels = (channels, height, width), None
        return chosen("images", source.__getitem__, len(source), shape, labels, images, batch_size)
    labels = None if source.labels is None else np.asarray(source.labels)
    return chosen(source.name, source.pixels, len(source), source.shape, labels, images, batch_size)


def is_checkpoint(path: Path) -> bool:
    """Return whether a path names a model rather than images."""
    return path.suffix in CHECKPOINT_SUFFIXES or any((path / name).is_file() for name in CHECKPOINT_FILES)


def chosen(
    name: str,
    pixels: Callable[[np.ndarray], np.ndarray],
    count: int,
    image_shape: tuple[int, int, int],
    labels: np.ndarray | None,
    limit: int,
    batch_size: int,
) -> Stream:
    """Return a stream of `limit` of `count` images in an order that is random but always the same.

    Random, because data sets are often sorted by class, and the first half must be like the second.
    """
    order = np.random.Generator(np.random.Philox(0)).permutation(count)[:limit]
    batches = (pixels(order[first : first + batch_size]) for first in range(0, len(order), batch_size))
    return Stream(name, len(order), image_shape, batches, None if labels is None else labels[order])


def generated(
    denoiser: Denoiser, seeds: Sequence[int], *, steps: int, batch_size: int, name: str = "generator"
) -> Stream:
    """Return a stream of one image a seed; a conditional generator makes class `seed modulo num_classes`."""
    check_pixels(denoiser)
    labels = labels_for(seeds, denoiser.num_classes)

    def batches() -> Iterator[np.ndarray]:
        training = denoiser.training
        denoiser.eval()
        try:
            first = 0
            for batch in generate(denoiser, seeds, steps=steps, batch_size=batch_size):
                broken = ~batch.isfinite().flatten(1).all(1)
                if broken.any():
                    seed = seeds[first + int(broken.nonzero()[0])]
                    raise ValueError(
                        f"The generator {name} makes images with NaN or infinite values (seed {seed}): its weights are "
                        "broken, or its training diverged; use an earlier checkpoint."
                    )
                yield to_uint8(batch)
                first += len(batch)
        finally:
            denoiser.train(training)

    classes = None if labels is None else labels.numpy()
    shape, networks = denoiser.pixel_shape, discriminator_networks(denoiser.provenance)
    return Stream(name, len(seeds), shape, batches(), classes, tuple(seeds), networks)


def discriminator_networks(provenance: dict[str, Any]) -> tuple[str, ...]:
    """Return the feature networks that a generator was trained against, as far as its file tells."""
    place: Any = provenance
    for key in ("recipe", "discriminator", "networks"):
        place = place.get(key) if isinstance(place, dict) else None
    return tuple(str(name) for name in place) if isinstance(place, list | tuple) else ()
