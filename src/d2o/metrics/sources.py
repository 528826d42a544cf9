"""Whatever can be evaluated, opened: a stream of uint8 batches that is still to be measured, or a known sample."""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2o import checkpoints
from d2o.checkpoints.places import Kind, locate
from d2o.data.datasets import Images, open_images
from d2o.data.files import to_uint8
from d2o.diffusion.denoiser import Denoiser, Guided, evaluation_mode
from d2o.diffusion.sampling import condition_for, generate
from d2o.encoders.codec import check_pixels
from d2o.errors import Diverged

from . import statistics
from .distances import SMALLEST
from .sample import Sample, Stream, from_statistics
from .statistics import Features

Source = Denoiser | Images | np.ndarray | Tensor | Sequence[Any] | Features | Stream | Sample | str | Path | Any
"""A generator, a data set, stored statistics, a stream, a sample, or a path or name of one; or images in memory.

These are all that `open_images` takes: tensors [N,C,H,W] and arrays of uint8 or floats, data sets of torch, lists.
"""


def open_source(
    source: Source,
    *,
    images: int | None,
    seeds: Sequence[int] = (),
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    wanted: Sequence[Kind] = (),
    **sampling: Any,
) -> Stream | Sample:
    """Return so many images of a data set, or all; one generated image per seed; or known statistics.

    Nothing is generated or decoded yet. A name may stand for what is `wanted`, as in `locate`. `sampling` are options
    of `generate_images`.
    Raises ValueError for what cannot be opened or evaluated.
    """
    if batch_size < 1:
        raise ValueError(f"The batch size must be at least 1, not {batch_size}.")
    name = source.name if isinstance(source, Images) else None
    if isinstance(source, str | Path):
        name, place = Path(source).name, locate(source, *wanted)
        if place.kind == "model":
            source = checkpoints.load(place.path, device=device)
        else:
            source = open_images(place.path) if place.kind == "data" else statistics.load(place.path)
    match source:
        case Stream() | Sample():
            return source
        case Features():
            return from_statistics(source, name or "stored statistics")
        case Denoiser():
            return generate_images(source, seeds, batch_size=batch_size, name=name or "generator", **sampling)
        case _:
            return choose_images(source, images, name or "images", batch_size)


def choose_images(source: Images | Any, images: int | None, name: str, batch_size: int) -> Stream:
    """Return a stream of so many images (None: all) in an order that is random but always the same.

    Random, because data sets are often sorted by class, and the first half must be like the second.
    """
    if isinstance(source, np.ndarray) and source.dtype == np.uint8 and source.ndim == 4 and source.shape[3] in (1, 3):
        read, shape, labels = source.__getitem__, (source.shape[3], *source.shape[1:3]), None
    else:
        source = source if isinstance(source, Images) else open_images(source)
        read, shape, labels = source.pixels, source.shape, source.labels
    if len(source) < SMALLEST:
        raise ValueError(f"{name} has only {len(source)} images: an evaluation needs at least {SMALLEST}.")
    order = np.random.Generator(np.random.Philox(0)).permutation(len(source))[:images]
    batches = (read(order[first : first + batch_size]) for first in range(0, len(order), batch_size))
    return Stream(name, len(order), shape, batches, None if labels is None else labels[order])


def generate_images(
    denoiser: Denoiser,
    seeds: Sequence[int],
    *,
    steps: int = 1,
    guidance: float = 1.0,
    batch_size: int = 64,
    name: str = "generator",
) -> Stream:
    """Return a stream of one image per seed; its class or caption is `generate`'s."""
    check_pixels(denoiser)
    if guidance != 1:
        Guided(denoiser, guidance)  # what is wrong with it is an error here, not at the first batch

    def generate_batches() -> Iterator[np.ndarray]:
        batches = generate(denoiser, seeds, steps=steps, guidance=guidance, batch_size=batch_size)
        with evaluation_mode(denoiser):
            for first, batch in zip(count(0, batch_size), batches, strict=False):
                broken = (~batch.isfinite().flatten(1).all(1)).nonzero()
                if len(broken):
                    seed = seeds[first + int(broken[0])]
                    raise Diverged(f"The generator {name} makes images with NaN or infinite values (seed {seed})")
                yield to_uint8(batch)

    labels = condition_for(denoiser, seeds) if denoiser.num_classes else None
    facts = (None if labels is None else labels.numpy(), tuple(seeds), denoiser.judged_by)
    return Stream(name, len(seeds), denoiser.pixel_shape, generate_batches(), *facts)
