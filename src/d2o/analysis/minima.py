"""Teacher and student side by side: how far their images are from each other and from the data (claim 1 of D2O)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from d2o.checkpoints.delta import weights_sha256
from d2o.diffusion.denoiser import Denoiser
from d2o.metrics.distances import distances
from d2o.metrics.pairs import pair_up
from d2o.metrics.sample import Sample
from d2o.metrics.spaces import overlap
from d2o.training.networks import check_fit

from .intervals import FEWEST, Interval, mean_interval, spearman
from .measurement import Measurement, Score, remember

TEACHER, DATA = "teacher", "real data"
OTHER_SEEDS = 1_000_000_000
"""Where the students' second seeds begin: far from the first, so that repetitions can be added."""
PAIRED = ("pixels", "features", "unpaired_pixels", "unpaired_features")
MEASURES = ("frechet", "kid", *PAIRED)
NEAR = 1.25
"""A teacher is near the data whose KID to them is shown to be at most so many times its smallest."""
FEWEST_STEPS = 5
"""Fewer have no order to speak of: of three unrelated numbers of steps 13 % have an interval without zero."""


class Pair(NamedTuple):
    """A generator in so many steps, and its reference: the data, or a student's images."""

    generator: str
    steps: int
    reference: str
    same_seeds: bool = False

    @property
    def calls(self) -> int:
        return 2 * self.steps - 1


@dataclass(frozen=True)
class MinimaStudy:
    """The distances of every pair by measure, one a repetition; `notes` say what flatters the students."""

    distances: dict[Pair, dict[str, list[float]]]
    students: tuple[str, ...]
    steps: tuple[int, ...]
    space: str
    images: int
    repetitions: int
    notes: tuple[str, ...] = ()


def minima(
    teacher: Denoiser,
    students: Mapping[str, Denoiser],
    measurement: Measurement,
    *,
    steps: Sequence[int] = (1, 2, 4, 8, 16),
    repetitions: int = FEWEST,
) -> MinimaStudy:
    """Measure a teacher, with Heun's sampler in so many steps, against one-step students and real images.

    Every score is kept in the measurement's directory, so that a study that was cut off continues. In memory are one
    sample of the teacher and two of every student.
    """
    if not students or {TEACHER, DATA} & students.keys():
        raise ValueError(f"Give at least one student, not named {TEACHER!r} or {DATA!r}.")
    if not steps or min(steps) < 1 or repetitions < 1:
        raise ValueError(f"--steps and --repetitions are at least 1, not {list(steps)} and {repetitions}.")
    for denoiser in (teacher, *students.values()):
        check_fit(denoiser, measurement.images)
    hashes = {name: weights_sha256(student) for name, student in students.items()}
    settings = {**measurement.settings(), "teacher_sha256": weights_sha256(teacher), "students_sha256": hashes}
    found: dict[Pair, dict[str, list[float]]] = {}
    steps, space = tuple(sorted(set(steps))), ""
    for number in range(repetitions):
        tasks = measurements(teacher, students, measurement, steps, number)
        title = f"repetition {number + 1} of {repetitions}"
        for (name, count), measure in measurement.counted(tasks.items(), len(tasks), title, "generators"):
            file = measurement.directory / f"{quote(name, safe='')}-{count}-{number}.json"
            score = remember(file, {**settings, "steps": count}, measure)
            space = score["space"]
            for row in score["distances"]:
                pair = Pair(name, count, row["reference"], row["same_seeds"])
                numbers = found.setdefault(pair, {what: [] for what in MEASURES})
                for what in MEASURES:
                    numbers[what] += [] if row.get(what) is None else [row[what]]
    judged_by = dict.fromkeys(chain.from_iterable(student.judged_by for student in students.values()))
    notes = tuple(overlap(measurement.features, tuple(judged_by)))
    return MinimaStudy(found, tuple(students), steps, space, measurement.count, repetitions, notes)


def measurements(
    teacher: Denoiser, students: Mapping[str, Denoiser], measurement: Measurement, steps: Sequence[int], number: int
) -> dict[tuple[str, int], Callable[[], Score]]:
    """Return what measures each (generator, steps) in one repetition, which has seeds of its own.

    A student is compared with the data and, as the floor, with itself from other seeds; the teacher with the data and
    with every student from other seeds and from the same. Students' images are made when first needed.
    """
    seeds = measurement.seeds(number)
    others = range(OTHER_SEEDS + seeds.start, OTHER_SEEDS + seeds.stop)

    @cache
    def sample(name: str, from_seeds: range) -> Sample:
        return measurement.sample(students[name], from_seeds, name)

    def measure(name: str, count: int) -> Score:
        if name == TEACHER:
            found = measurement.sample(teacher, seeds, TEACHER, count)
            references = [(student, from_seeds) for from_seeds in (others, seeds) for student in students]
        else:
            found, references = sample(name, seeds), [(name, others)]
        rows = [compare(found, measurement.evaluator.reference, DATA)]
        rows += [compare(found, sample(student, from_seeds), student) for student, from_seeds in references]
        return {"space": measurement.evaluator.embedding.name, "distances": rows}

    tasks = [*((name, 1) for name in students), *((TEACHER, count) for count in steps)]
    return {task: partial(measure, *task) for task in tasks}


def compare(sample: Sample, reference: Sample, name: str) -> dict[str, Any]:
    """Return the distances of two samples; images of the same seeds are also compared pair by pair."""
    found, same_seeds = distances(sample.features, reference.features), sample.seeds == reference.seeds
    row = {"reference": name, "same_seeds": same_seeds, "frechet": found.frechet, "kid": float(found.kid or 0)}
    pairs = pair_up(sample, reference) if same_seeds else None
    return row | {what: getattr(pairs, what) for what in PAIRED if pairs}


def comparisons(study: MinimaStudy, name: str) -> dict[str, Interval]:
    """Return what tells whether this student is in another minimum than this teacher, as means over repetitions."""
    found, most = study.distances, study.steps[-1]
    ends = {"teacher": Pair(TEACHER, most, DATA), "student": Pair(name, 1, DATA)}
    between = np.array(found[Pair(TEACHER, most, name)]["kid"])
    title = "KID between, minus that of the {} to the data"
    rows = {title.format(end): mean_interval(between - found[pair]["kid"]) for end, pair in ends.items()}
    rows |= growth(study, name)
    pairs = found[Pair(TEACHER, most, name, True)]
    for what in ("features", "pixels"):
        unpaired = pairs[f"unpaired_{what}"]
        if unpaired and all(unpaired):
            rows[f"paired distance / unpaired, in {what}"] = mean_interval(np.divide(pairs[what], unpaired))
    return rows


def growth(study: MinimaStudy, name: str) -> dict[str, Interval]:
    """Return the rank correlation of steps with the KID between, minus the teacher's to the data, where it is near.

    What moves the teacher's images from data and student alike drops out of the difference.
    """
    apart = {count: np.array(study.distances[Pair(TEACHER, count, DATA)]["kid"]) for count in study.steps}
    best = min(apart.values(), key=np.mean)
    near = [count for count, kid in apart.items() if kid is best or mean_interval(kid - NEAR * best).high <= 0]
    title = f"rank correlation of KID between, minus teacher to data, with steps {str(near)[1:-1]}"
    if len(near) < FEWEST_STEPS:
        title = f"{title}: too few are near the data, name more in --steps ({FEWEST_STEPS} are needed)"
        return {title: Interval(math.nan, math.nan, math.nan, len(near))}
    difference = [study.distances[Pair(TEACHER, count, name)]["kid"] - apart[count] for count in near]
    correlations = [spearman(near, row) for row in zip(*difference, strict=True)]
    # Four that happen to be alike are no certainty: they scatter at least half as much as those of unrelated numbers.
    return {title: mean_interval(correlations, least_deviation=0.5 / math.sqrt(len(near) - 1), limit=1)}
