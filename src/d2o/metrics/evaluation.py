"""Evaluate images against a reference, which is measured once for as many generators as you like.

evaluator = Evaluator("cifar10.zip", images=1000);  evaluation = evaluator("student.safetensors")
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2o.checkpoints.places import REFERENCE, locate
from d2o.features.embedding import Embedding, OwnSpace, embedding

from .counting import Counted, unshown
from .distances import SMALLEST, Distances, distances
from .diversity import Diversity
from .pairs import Pairs, pair_up
from .sample import Sample, Stream, measure
from .sources import Source, open_source
from .spaces import overlap
from .statistics import Features

COLLAPSE, LOW_RECALL = 0.75, 0.1
"""Images that vary less than this share of the reference's variation, or cover less of it, earn a warning."""
RANDOM = "The feature network has random weights: its numbers are only for tests of the software."


@dataclass(frozen=True)
class Evaluation:
    """How far a sample is from the reference, and the facts needed to read the numbers.

    `floor` compares two disjoint halves of the reference itself: no generator can be asked to do better.
    """

    name: str
    reference: str
    space: str
    distances: Distances
    floor: Distances | None
    diversity: Diversity
    reference_diversity: Diversity
    pairs: Pairs | None = None
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"warnings": list(self.warnings)}


class Evaluator:
    """A feature network and a measured reference, for repeated evaluation.

    Generators make one image for each of `seeds` (default 0 to `images` - 1); of data sets, as many are chosen. Of a
    reference that is a data set all images count, as in published numbers, or `reference_images`, with as many more as
    there are seeds for the floor. `steps` is the reference's own where the reference is a generator.
    `features` is by default the space of stored statistics, else `lite2`; `weights` goes to `embedding`. It may be a
    function of your own, from uint8 images [n, H, W, C] as a numpy array to rows [n, D], an array or a tensor.
    `judged_by` names feature networks of a discriminator, in addition to those of which a generator's file tells.
    Images pass through `counted`, which may show progress.
    """

    def __init__(
        self,
        reference: Source,
        *,
        features: str | Callable[[np.ndarray], Any] | None = None,
        images: int = 1000,
        seeds: Sequence[int] | None = None,
        reference_images: int | None = None,
        steps: int = 1,
        batch_size: int = 64,
        weights: str = "auto",
        device: torch.device | str = "cpu",
        judged_by: Sequence[str] = (),
        counted: Counted = unshown,
    ) -> None:
        self.seeds = seeds = tuple(range(images) if seeds is None else seeds)
        if len(seeds) < SMALLEST:
            raise ValueError(f"An evaluation needs at least {SMALLEST} images, not {len(seeds)}.")
        self.options: dict[str, Any] = {"batch_size": batch_size, "device": device}
        self.weights, self.judged_by, self.counted = weights, tuple(judged_by), counted
        opened = open_reference(reference, seeds, reference_images, steps=steps, **self.options)
        self.own = OwnSpace(features) if callable(features) else None
        named = features if isinstance(features, str) else self.own and self.own.name
        self.space = named or (opened.features.space if isinstance(opened, Sample) else "lite2")
        everything = self.measure(opened, keep_pixels=True)
        self.floor = compare_halves(everything.features, len(seeds))
        self.reference = everything if reference_images is None else everything.first(reference_images)

    @cached_property
    def embedding(self) -> Embedding | OwnSpace:
        """The feature network, loaded when the first image needs it: stored statistics never do."""
        return self.own or embedding(self.space, self.weights).to(self.options["device"])

    def __call__(
        self, source: Source, *, name: str | None = None, steps: int = 1, seeds: Sequence[int] | None = None
    ) -> Evaluation:
        """Compare images, or those that a generator makes of the seeds in `steps` steps, with the reference.

        Raises ValueError for images of another shape than the reference's and for a generator of NaNs.
        """
        seeds, reference = tuple(self.seeds if seeds is None else seeds), self.reference
        opened = open_source(source, images=len(seeds), seeds=seeds, steps=steps, **self.options)
        opened = replace(opened, name=name or opened.name)
        check_shapes(opened, reference)
        paired = isinstance(opened, Stream) and opened.seeds is not None and opened.seeds == reference.seeds
        sample = self.measure(opened, keep_pixels=paired)
        found = distances(sample.features, reference.features)
        judged_by = tuple(dict.fromkeys((*self.judged_by, *sample.judged_by)))
        return Evaluation(
            name=sample.name,
            reference=reference.name,
            space=reference.features.space,
            distances=found,
            floor=self.floor,
            diversity=sample.diversity,
            reference_diversity=reference.diversity,
            pairs=pair_up(sample, reference) if paired else None,
            warnings=(
                *([RANDOM] if self.weights.startswith("random") else []),
                *overlap(reference.features.space, judged_by),
                *warn_of_collapse(sample, reference, found.recall),
            ),
        )

    def measure(self, opened: Stream | Sample, *, keep_pixels: bool = False) -> Sample:
        """Measure a stream of images; the pixels of generators are kept if asked for. A sample is measured already."""
        if isinstance(opened, Sample):
            return opened
        stream = replace(opened, batches=self.counted(opened.batches, opened.count, opened.name))
        return measure(stream, self.embedding, keep_pixels=keep_pixels and opened.seeds is not None)


def evaluate(
    a: Source,
    b: Source,
    *,
    images: int = 1000,
    seeds: Sequence[int] | None = None,
    reference_images: int | None = None,
    steps: int = 1,
    reference_steps: int | None = None,
    guidance: float = 1.0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Evaluation:
    """Evaluate `a` against the reference `b`, usually real images; the other options are those of `Evaluator`.

    Both are opened and compared in shape before the first image is made or measured. Two generators use the same seeds
    and are also compared pair by pair; `reference_steps` is `steps` when not given. `guidance` is the scale of
    classifier-free guidance of `a`.
    """
    seeds = tuple(range(images) if seeds is None else seeds)
    common: dict[str, Any] = {"seeds": seeds, "batch_size": batch_size, "device": device}
    for name, wanted in ((a, ()), (b, REFERENCE)):
        if isinstance(name, str | Path):
            locate(name, *wanted)
    reference = open_reference(b, limit=reference_images, steps=reference_steps or steps, **common)
    sample = open_source(a, images=len(seeds), steps=steps, guidance=guidance, **common)
    check_shapes(sample, reference)
    return Evaluator(reference, reference_images=reference_images, **common, **options)(sample)


def open_reference(reference: Source, seeds: Sequence[int], limit: int | None, **options: Any) -> Stream | Sample:
    """Return a reference: all images of a data set, or `limit` and, for the floor, as many more as there are seeds."""
    if limit is not None and limit < SMALLEST:
        raise ValueError(f"An evaluation needs at least {SMALLEST} images of its reference, not {limit}.")
    images = None if limit is None else limit + len(seeds)
    opened = open_source(reference, images=images, seeds=seeds, wanted=REFERENCE, **options)
    if limit is not None and (isinstance(opened, Sample) or opened.seeds is not None):
        raise ValueError(
            f"{opened.name} is not a data set, so images cannot be chosen: leave out --reference-images (in Python "
            "reference_images)."
        )
    return opened


def check_shapes(sample: Stream | Sample, reference: Stream | Sample) -> None:
    """Raise ValueError for images of another shape than the reference's; stored statistics have none."""
    shapes = [side.image_shape for side in (sample, reference) if side.image_shape]
    if len(set(shapes)) == 2:
        here, there = (f"{w}x{h} with {c} channel{'s' * (c > 1)}" for c, h, w in shapes)
        differ = f"The images of {sample.name} are {here}, those of {reference.name} {there}"
        raise ValueError(f"{differ}: prepare one of them in the other's size and channels.")


def compare_halves(everything: Features, images: int) -> Distances | None:
    """Compare `images` images of the reference with as many others; where there are fewer, half with half."""
    if everything.values is None or len(everything.values) < 2 * SMALLEST:
        return None
    half = min(images, len(everything.values) // 2)
    return distances(everything.rows(0, half), everything.rows(half, 2 * half))


def warn_of_collapse(sample: Sample, reference: Sample, recall: float | None) -> list[str]:
    """Return a sentence if a sample varies much less than the reference, or covers little of it."""
    signs = []
    for words, field in ("deviation per pixel", "pixel_deviation"), ("mean feature distance", "feature_distance"):
        found, expected = (getattr(side.diversity, field) for side in (sample, reference))
        if None not in (found, expected) and found < COLLAPSE * expected:
            signs.append(f"vary less than the reference's ({words} {found:.3g} against {expected:.3g})")
    if recall is not None and recall < LOW_RECALL:
        signs.append(f"cover little of the reference (recall {recall:.3g})")
    sentence = f"The images of {sample.name} {', and '.join(signs)}: check them for collapse, which distances hide."
    return [sentence] if signs else []
