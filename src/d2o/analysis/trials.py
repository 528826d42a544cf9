"""Short runs that are compared: each in a directory of its own, continued after a kill, never done twice."""

import json
from collections import deque
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from d2o.checkpoints.delta import weights_sha256
from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.files import atomic
from d2o.metrics.counting import Counted, unshown
from d2o.metrics.evaluation import Judge
from d2o.metrics.spaces import overlap
from d2o.training.networks import check_fit, networks
from d2o.training.recipe import Recipe
from d2o.training.run import Habits, Moment, run, summary
from d2o.training.run_directory import claim, differences

from .correlation import spread
from .findings import measured, plain

RESULT = "result.json"
SPENT = ("checkpoint.safetensors", "student.safetensors")
"""Files of a run that nobody needs once its result is known."""

Watch = Callable[[Iterable[Moment], int, str], Any]
Score = dict[str, Any]
"""What one evaluation says: `kid`, `frechet`, `precision`, `recall`, `pixel_deviation` ..."""


def in_silence(moments: Iterable[Moment], duration: int, title: str) -> None:
    """Follow a run to its end and show nothing."""
    del duration, title
    deque(moments, maxlen=0)


@dataclass(frozen=True)
class Bench:
    """What trials have in common: where they are kept, the real images, and how results are measured."""

    directory: Path
    images: Images
    count: int = 500
    features: str = "lite2"
    weights: str = "auto"
    device: str = "cpu"
    watch: Watch = in_silence
    counted: Counted = unshown
    batch_size: int = 64
    judges: dict[int, Judge] = field(default_factory=dict, compare=False, repr=False)

    def judge(self, repetition: int) -> Judge:
        """Return the judge whose seeds belong to a repetition; all of them share one look at the real images."""
        if repetition not in self.judges:
            if self.judges:
                judge = copy(next(iter(self.judges.values())))
            else:
                judge = Judge(
                    self.images,
                    images=self.count,
                    features=self.features,
                    weights=self.weights,
                    batch_size=self.batch_size,
                    device=self.device,
                    counted=self.counted,
                )
            judge.seeds = tuple(range(self.count * repetition, self.count * (repetition + 1)))
            self.judges[repetition] = judge
        return self.judges[repetition]

    def measure(self) -> dict[str, Any]:
        """Return how results are measured; they do not depend on the batch."""
        return {"count": self.count, "features": self.features, "weights": self.weights, "images": len(self.images)}

    def settings(self) -> dict[str, Any]:
        """Return what results depend on besides their models: the measure and the real images."""
        return {**self.measure(), "data": self.images.name, "fingerprint": self.images.fingerprint}


@dataclass(frozen=True)
class Scores:
    """Repetitions of one trial."""

    name: str
    rows: tuple[Score, ...]

    def values(self, key: str = "kid") -> list[float]:
        """Return one number a repetition."""
        return [float(row[key]) for row in self.rows]

    @property
    def kid(self) -> float:
        """The mean KID."""
        return spread(self.values())[0]

    def cell(self, key: str = "kid") -> str:
        """Return mean and standard deviation over repetitions, as they are shown."""
        return measured(*spread(self.values(key)))

    def as_dict(self) -> dict[str, Any]:
        """Return what goes into JSON."""
        return {"name": self.name, "repetitions": list(self.rows)}


def relatives(bench: Bench, recipe: Recipe) -> tuple[str, ...]:
    """Return a sentence for each network of the discriminator that is related to the one that measures quality."""
    return tuple(overlap(bench.features, recipe.judged_by))


def tuned(
    bench: Bench,
    name: str,
    recipe: Recipe,
    teacher: Denoiser,
    *,
    origin: dict[str, Any],
    repetition: int = 0,
    prepare: Callable[[Denoiser], Any] | None = None,
    steps: int = 1,
) -> tuple[Score, Path]:
    """Train by a recipe, or continue, or look up what was found; return the score and the run's directory.

    `prepare` changes the student before it trains: `origin` must tell how, since it is what tells trials apart, with
    the teacher's weights and `steps`. The result is the averaged student's (`ema.safetensors`), sampled in `steps`
    steps.
    """
    recipe = replace(recipe, seed=recipe.seed + repetition)
    directory = bench.directory / f"{name}-{repetition}"
    origin = {**origin, "teacher_sha256": weights_sha256(teacher), "evaluation": {**bench.measure(), "steps": steps}}
    file = directory / RESULT
    if file.exists():
        with claim(directory, recipe, origin, bench.images):
            return json.loads(file.read_text()), directory
    check_fit(teacher, bench.images)
    made = networks(recipe, teacher)
    if prepare is not None:
        prepare(made.student)
    habits = Habits(sample_every=recipe.duration, save_every=max(recipe.duration // 2, 1), sample_steps=steps)
    moments = run(directory, recipe, made, bench.images, origin=origin, habits=habits)
    bench.watch(moments, recipe.duration, directory.name)
    score = plain(summary(bench.judge(repetition)(made.ema, steps=steps)))
    write(file, score)
    for spent in SPENT:
        (directory / spent).unlink(missing_ok=True)
    return score, directory


def remembered(file: Path, settings: dict[str, Any], measure: Callable[[], Score]) -> Score:
    """Return what was measured before under the same settings, or measure and remember it."""
    settings = plain(settings)
    if file.exists():
        stored = json.loads(file.read_text())
        if found := differences(stored["settings"], settings):
            raise ValueError(
                f"{file} holds a result of other settings: {found[0]}; choose another directory for the output."
            )
        return stored["score"]
    score = plain(measure())
    write(file, {"settings": settings, "score": score})
    return score


def write(file: Path, record: dict[str, Any]) -> None:
    """Write JSON atomically."""
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(plain(record), indent=1) + "\n")
