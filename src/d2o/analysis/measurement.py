"""How a study measures images, and its results on disk, so that nothing is measured twice."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.files import atomic
from d2o.metrics.counting import Counted, unshown
from d2o.metrics.distances import SMALLEST
from d2o.metrics.evaluation import Evaluator
from d2o.metrics.sample import Sample
from d2o.metrics.sources import generate_images
from d2o.training.run_directory import list_differences

from .report import plain

Score = dict[str, Any]
"""The JSON of one measurement."""


@dataclass(frozen=True)
class Measurement:
    """The real images, how many are compared in which feature space, and the directory of the results."""

    directory: Path
    images: Images
    count: int = 500
    features: str = "lite2"
    weights: str = "auto"
    device: str = "cpu"
    batch_size: int = 64
    counted: Counted = unshown

    def __post_init__(self) -> None:
        for option, value, least in (("--count", self.count, SMALLEST), ("--batch", self.batch_size, 1)):
            if value < least:
                raise ValueError(f"{option} is at least {least}, not {value}.")

    def settings(self) -> dict[str, Any]:
        """Return what results depend on, other than models."""
        data = {"images": len(self.images), "data": self.images.name, "fingerprint": self.images.fingerprint}
        return {"count": self.count, "features": self.features, "weights": self.weights, **data}

    @cached_property
    def evaluator(self) -> Evaluator:
        options: dict[str, Any] = dict.fromkeys(("images", "reference_images"), self.count)
        options |= {"batch_size": self.batch_size, "device": self.device, "counted": self.counted}
        return Evaluator(self.images, features=self.features, weights=self.weights, **options)

    def seeds(self, repetition: int) -> range:
        return range(self.count * repetition, self.count * (repetition + 1))

    def sample(self, denoiser: Denoiser, seeds: Sequence[int], name: str, steps: int = 1) -> Sample:
        """Make one image a seed, and return their features and pixels."""
        stream = generate_images(denoiser, seeds, steps=steps, batch_size=self.batch_size, name=name)
        return self.evaluator.measure(stream, keep_pixels=True)


def remember(file: Path, settings: dict[str, Any], measure: Callable[[], Score]) -> Score:
    """Return the score in a file, or measure it and write it there; a file of other settings is a ValueError."""
    settings = plain(settings)
    if file.exists():
        stored = json.loads(file.read_text())
        if found := list_differences(stored["settings"], settings):
            raise ValueError(f"{file} has other settings: {found[0]}; choose another directory for the output.")
        return stored["score"]
    score = plain(measure())
    with atomic(file) as temporary:
        temporary.write_text(json.dumps({"settings": settings, "score": score}, indent=1) + "\n")
    return score
