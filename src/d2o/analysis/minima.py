"""Teacher and student side by side: how far their images are from each other and from the data (claim 1 of D2O).

Distances between a one-step student's images and those that its teacher makes in 1, 2, 4 ... steps from the same seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from d2o.diffusion.denoiser import Denoiser
from d2o.metrics.evaluation import Evaluation, Judge
from d2o.metrics.sources import Stream, generated
from d2o.metrics.spaces import frechet_name
from d2o.pixels.datasets import Images
from d2o.training.networks import check_fit

from .barrier import Barrier
from .barrier import sentences as barrier_sentences
from .correlation import rank_correlation, spread, verdict
from .findings import Findings, Table, measured

DATA = "real data"
DEFINITIONS = (
    "Every generator makes one image a seed; each repetition has seeds of its own, the same for all generators. ± is "
    "the standard deviation over repetitions.",
    "The Frechet distance grows as samples shrink: compare it with the row of other seeds, which is the same student "
    "twice, and only at one N. KID is unbiased, near 0 (also below) for equal distributions.",
    "Paired distances: root mean square difference of the two images of one seed in image units (black to white is 2), "
    "and Euclidean distance of their features; unpaired: of two different seeds.",
    "Interpolation: weights (1 - a) teacher + a student. Barrier: the largest excess of the denoising loss over the "
    "straight line between its ends (arXiv 1912.05671).",
)


@dataclass(frozen=True)
class Distance:
    """One generator's images against a reference: one number a repetition in each list; no pairs with real data."""

    generator: str
    steps: int
    reference: str
    frechet: tuple[float, ...]
    kid: tuple[float, ...]
    pixels: tuple[float, ...] = ()
    features: tuple[float, ...] = ()
    unpaired_pixels: tuple[float, ...] = ()
    unpaired_features: tuple[float, ...] = ()

    @property
    def calls(self) -> int:
        """Network calls an image."""
        return 2 * self.steps - 1


@dataclass(frozen=True)
class MinimaStudy:
    """All distances, the space and the number of images they hold for, and walks between the weights."""

    distances: tuple[Distance, ...]
    space: str
    images: int
    repetitions: int
    barriers: tuple[Barrier, ...] = ()

    def find(self, generator: str, steps: int, reference: str) -> Distance:
        """Return one of the distances."""
        return next(d for d in self.distances if (d.generator, d.steps, d.reference) == (generator, steps, reference))


def minima(
    teacher: Denoiser,
    students: Mapping[str, Denoiser],
    images: Images,
    *,
    steps: Sequence[int] = (1, 2, 4, 8, 16),
    count: int = 500,
    repetitions: int = 3,
    features: str = "lite2",
    weights: str = "auto",
    batch_size: int = 64,
    device: str = "cpu",
    barriers: Sequence[Barrier] = (),
) -> MinimaStudy:
    """Measure a teacher, with Heun's sampler in so many steps, against one-step students and real images.

    `features` and `weights` are those of `d2o.evaluate`. The images of one generator are held at a time, as uint8, and
    every student's as the reference.
    """
    if not students:
        raise ValueError("Give at least one student: the distances are between it and its teacher.")
    if not steps or min(steps) < 1 or repetitions < 1:
        raise ValueError(f"Steps and repetitions are at least 1, not {list(steps)} and {repetitions}.")
    if "teacher" in students or DATA in students:
        raise ValueError(f"Name the students otherwise than 'teacher' and {DATA!r}.")
    for denoiser in (teacher, *students.values()):
        check_fit(denoiser, images)
    options = {"features": features, "weights": weights, "batch_size": batch_size, "device": device}
    data = Judge(images, images=count, **options)
    found: dict[tuple[str, int, str], list[Evaluation]] = {}

    def judge(reference: str, by: Judge, generator: str, made: int, stream: Stream) -> None:
        found.setdefault((generator, made, reference), []).append(by(stream, name=generator))

    for repetition in range(repetitions):
        seeds, others = (range(count * i, count * (i + 1)) for i in (repetition, repetitions + repetition))
        by = {name: Judge(student, seeds=seeds, **options) for name, student in students.items()}
        for name, student in students.items():
            judge(DATA, data, name, 1, generated(student, seeds, steps=1, batch_size=batch_size, name=name))
            judge(name, by[name], name, 1, generated(student, others, steps=1, batch_size=batch_size, name=name))
        for number in sorted(set(steps)):
            stream = generated(teacher, seeds, steps=number, batch_size=batch_size, name="teacher")
            batches = list(stream.batches)
            for name, one in ((DATA, data), *by.items()):
                judge(name, one, "teacher", number, replace(stream, batches=iter(batches)))
    distances = tuple(distance(*key, evaluations) for key, evaluations in found.items())
    return MinimaStudy(distances, data.embedding.name, count, repetitions, tuple(barriers))


def distance(generator: str, steps: int, reference: str, evaluations: Sequence[Evaluation]) -> Distance:
    """Return what repetitions of one comparison measured."""
    frechets = tuple(evaluation.distances.frechet for evaluation in evaluations)
    kids = tuple(float(evaluation.distances.kid or 0) for evaluation in evaluations)
    pairs = [evaluation.pairs for evaluation in evaluations if evaluation.pairs is not None]
    names = ("pixels", "features", "unpaired_pixels", "unpaired_features")
    paired = {name: tuple(getattr(pair, name) for pair in pairs) for name in names}
    return Distance(generator, steps, reference, frechets, kids, **paired)


def findings(study: MinimaStudy) -> Findings:
    """Return what the study says, in words, tables and numbers."""
    students = [d.generator for d in study.distances if d.reference == DATA and d.generator != "teacher"]
    steps = sorted(d.steps for d in study.distances if d.generator == "teacher" and d.reference == DATA)
    sentences: list[str] = []
    for name in students:
        sentences += [gap(study, name, steps[-1]), growth(study, name, steps), same_map(study, name, steps[-1])]
    for barrier in study.barriers:
        sentences += barrier_sentences(barrier)
    return Findings(
        kind="minima",
        title="Minima: do teacher and student sit in different places?",
        question="Are a one-step student's images far from its teacher's though both are near the data, and the "
        "farther the more steps the teacher takes?",
        conclusion=tuple(sentences),
        tables=(table(study), *(barrier.table() for barrier in study.barriers)),
        numbers={
            "features": study.space,
            "images": study.images,
            "repetitions": study.repetitions,
            "distances": [vars(one) | {"calls": one.calls} for one in study.distances],
            "interpolations": [vars(barrier) for barrier in study.barriers],
        },
        definitions=DEFINITIONS,
    )


def gap(study: MinimaStudy, name: str, steps: int) -> str:
    """Return whether teacher and student are farther from each other than from the data, as a sentence."""
    rows = {
        "between": study.find("teacher", steps, name),
        "teacher": study.find("teacher", steps, DATA),
        "student": study.find(name, 1, DATA),
        "again": study.find(name, 1, name),
    }
    kid = {key: spread(row.kid) for key, row in rows.items()}
    (middle, sd), others = kid["between"], [kid["teacher"], kid["student"]]
    far = middle - (sd or 0) > max(mean + (other or 0) for mean, other in others)
    near = middle + (sd or 0) < min(mean - (other or 0) for mean, other in others)
    answer = "farther from" if far else "nearer to" if near else "about as far from"
    than = "than" if far or near else "as"
    return (
        f"With {steps} steps the teacher's images are {answer} those of {name} {than} the two are from the data: KID "
        f"{measured(*kid['between'])} between them, {measured(*kid['teacher'])} from the teacher to the data and "
        f"{measured(*kid['student'])} from the student to it; two samples of the student: {measured(*kid['again'])}."
    )


def growth(study: MinimaStudy, name: str, steps: Sequence[int]) -> str:
    """Return whether the distance between teacher and student grows with the teacher's steps, as a sentence."""
    several = [number for number in steps if number > 1]
    rows = [study.find("teacher", number, name) for number in several]
    pairs = [(row.steps, value) for row in rows for value in row.frechet]
    start = several[0] if several else 1
    claim = f"from {start} steps on, the distance of {name} to its teacher grows with the teacher's steps"
    return verdict(rank_correlation([step for step, _ in pairs], [value for _, value in pairs]), claim)


def same_map(study: MinimaStudy, name: str, steps: int) -> str:
    """Return how alike the two images of one seed are, as a sentence."""
    row = study.find("teacher", steps, name)
    near, far = spread(row.features)[0], spread(row.unpaired_features)[0]
    return (
        f"The images that the teacher in {steps} steps and {name} make from one seed are {near / far:.0%} as far "
        f"apart, in features, as those of two seeds ({spread(row.pixels)[0] / spread(row.unpaired_pixels)[0]:.0%} in "
        f"pixels). "
    )


def table(study: MinimaStudy) -> Table:
    """Return the table of all distances."""
    frechet = frechet_name(study.space)
    columns = (
        "images of",
        "calls",
        "against",
        frechet,
        "KID",
        "pixels, paired",
        "unpaired",
        "features, paired",
        "unpaired",
    )
    rows = []
    for one in study.distances:
        again = one.generator == one.reference
        numbers = [
            measured(*spread(values)) if values else None
            for values in (one.pixels, one.unpaired_pixels, one.features, one.unpaired_features)
        ]
        against = f"{one.reference}, other seeds" if again else one.reference
        rows.append(
            (one.generator, one.calls, against, *(measured(*spread(v)) for v in (one.frechet, one.kid)), *numbers)
        )
    rows.sort(key=lambda row: (row[0] != "teacher", row[1], row[2]))
    return Table(f"Distances in {study.space}, N = {study.images:,}, {study.repetitions} repetitions", columns, rows)


def series(study: MinimaStudy, reference: str, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the teacher's calls [S] and its distances [S, repetitions] to a reference; `what` is a field's name."""
    rows = sorted(
        (d for d in study.distances if (d.generator, d.reference) == ("teacher", reference)), key=lambda d: d.steps
    )
    return np.array([row.calls for row in rows]), np.array([getattr(row, what) for row in rows])
