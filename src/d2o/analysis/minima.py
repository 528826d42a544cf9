"""Teacher and student side by side: how far their images are from each other and from the data (claim 1 of D2O).

Distances between a one-step student's images and those that its teacher makes in 1, 2, 4 ... steps, from other seeds
and from the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

import numpy as np

from d2o.checkpoints.delta import weights_sha256
from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.metrics.sources import discriminator_networks
from d2o.metrics.spaces import frechet_name, overlap
from d2o.training.networks import check_fit

from .barrier import Barrier
from .barrier import sentences as barrier_sentences
from .correlation import FEWEST, mean_interval, mean_rank_correlation, spearman, spread, verdict
from .findings import Findings, Table, caution, measured
from .side_by_side import DATA, Distance, Repetition, over_repetitions
from .trials import Bench, Score, remembered

NEAR = 1.25
"""With more than so many times its smallest Frechet distance to the data a teacher walked in too few steps."""
FEWEST_STEPS = 3
"""Fewer numbers of steps have no order to speak of."""
DEFINITIONS = (
    "Every generator makes one image a seed; each repetition has seeds of its own. ± is the standard deviation over "
    "repetitions.",
    "Other seeds: the two samples are independent, as samples and data are. Only these rows can be compared with the "
    "distances to the data and with the student against itself, the floor. Same seeds: images that are alike pair by "
    "pair are nearer as samples, too; these rows are for their paired distances, and not to be compared with others.",
    "The Frechet distance grows as samples shrink: compare it with the floor, and only at one N. KID is unbiased, near "
    "0 (also below) for equal distributions.",
    "Paired distances: root mean square difference of the two images of one seed in image units (black to white is 2), "
    "and Euclidean distance of their features; unpaired: of two seeds of the same class.",
    "Growth with the teacher's steps is asked where the teacher is near the data alone: in fewer steps its images are "
    "broken, and come nearer to everything with each step more.",
    "Intervals are Student's t over repetitions, one number each, with the same real images every time; fewer than 4 "
    "repetitions decide nothing.",
    "Interpolation: weights (1 - a) teacher + a student. Barrier: the largest excess of the denoising loss over the "
    "straight line between its ends (arXiv 1912.05671), against the standard error of the images' own "
    "excesses. A point is better than an end where the 95 % interval of their difference in KID, one number a "
    "repetition with the same seeds at both, is below 0; that the point was chosen as the best of all is not counted.",
)


@dataclass(frozen=True)
class MinimaStudy:
    """All distances, the space and the number of images they hold for, and walks between the weights.

    `unlike` names students between whose weights and the teacher's there is no line, as their shapes differ.
    """

    distances: tuple[Distance, ...]
    space: str
    images: int
    repetitions: int
    barriers: tuple[Barrier, ...] = ()
    unlike: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def find(self, generator: str, steps: int, reference: str, *, same_seeds: bool = False) -> Distance:
        """Return one of the distances."""
        asked = (generator, steps, reference, same_seeds)
        return next(d for d in self.distances if (d.generator, d.steps, d.reference, d.same_seeds) == asked)


def minima(
    teacher: Denoiser,
    students: Mapping[str, Denoiser],
    bench: Bench,
    *,
    steps: Sequence[int] = (1, 2, 4, 8, 16),
    repetitions: int = FEWEST,
    barriers: Sequence[Barrier] = (),
    unlike: Sequence[str] = (),
) -> MinimaStudy:
    """Measure a teacher, with Heun's sampler in so many steps, against one-step students and real images.

    What one repetition says of one generator in so many steps is remembered in the bench's directory, so that a study
    that was cut off continues; of the repetition that it was in, the students' images alone are made again. Held are
    the features of one teacher and of two samples of every student, and the pixels (uint8) of one teacher and one
    sample each.
    """
    check(teacher, students, bench.images, steps, repetitions)
    settings = {
        **bench.settings(),
        "teacher_sha256": weights_sha256(teacher),
        "students_sha256": {name: weights_sha256(student) for name, student in students.items()},
    }
    scores: dict[tuple[str, int], list[Score]] = {}
    for number in range(repetitions):
        repetition = Repetition(bench, students, number)
        tasks: dict[tuple[str, int], Callable[[], Score]]
        tasks = {(name, 1): partial(repetition.student, name) for name in students}
        tasks |= {("teacher", count): partial(repetition.teacher, teacher, count) for count in sorted(set(steps))}
        title = f"repetition {number + 1} of {repetitions}"
        for (name, count), measure in bench.counted(tasks.items(), len(tasks), title, "generators"):
            file = bench.directory / f"{quote(name, safe='')}-{count}-{number}.json"
            score = remembered(file, {**settings, "steps": count}, measure)
            scores.setdefault((name, count), []).append(score)
    found = [distance for key, rows in scores.items() for distance in over_repetitions(*key, rows)]
    space = next(iter(scores.values()))[0]["space"]
    judged_by = dict.fromkeys(name for one in students.values() for name in discriminator_networks(one.provenance))
    notes = tuple(overlap(bench.features, tuple(judged_by)))
    return MinimaStudy(tuple(found), space, bench.count, repetitions, tuple(barriers), tuple(unlike), notes)


def check(
    teacher: Denoiser, students: Mapping[str, Denoiser], images: Images, steps: Sequence[int], repetitions: int
) -> None:
    """Raise a ValueError for what cannot be measured, before anything is."""
    if not students:
        raise ValueError("Give at least one student: the distances are between it and its teacher.")
    if not steps or min(steps) < 1 or repetitions < 1:
        raise ValueError(f"Steps and repetitions are at least 1, not {list(steps)} and {repetitions}.")
    if "teacher" in students or DATA in students:
        raise ValueError(f"Name the students otherwise than 'teacher' and {DATA!r}.")
    for denoiser in (teacher, *students.values()):
        check_fit(denoiser, images)


def findings(study: MinimaStudy) -> Findings:
    """Return what the study says, in words, tables and numbers."""
    students = [d.generator for d in study.distances if d.reference == DATA and d.generator != "teacher"]
    steps = sorted(d.steps for d in study.distances if d.generator == "teacher" and d.reference == DATA)
    sentences: list[str] = []
    for name in students:
        sentences += [gap(study, name, steps[-1]), growth(study, name, steps), same_map(study, name, steps[-1])]
    for barrier in study.barriers:
        sentences += barrier_sentences(barrier)
    sentences += [
        f"There is no line between the weights of the teacher and of {name}: some of its parameters have another shape."
        for name in study.unlike
    ]
    sentences += (*caution(study.repetitions, FEWEST), *study.notes)
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
    excesses = [mean_interval(np.subtract(rows["between"].kid, rows[end].kid)) for end in ("teacher", "student")]
    far, near = all(one.low > 0 for one in excesses), all(one.high < 0 for one in excesses)
    start = f"With {steps} steps the teacher's images are"
    if far or near:
        answer = f"{start} {'farther from' if far else 'nearer to'} those of {name} than the two are from the data"
    elif all(one.known for one in excesses):
        answer = f"{start} neither surely farther from those of {name} than both are from the data, nor surely nearer"
    else:
        answer = (
            f"Not decided: whether with {steps} steps the teacher's images are farther from those of {name} than the "
            f"two are from the data"
        )
    told = "; ".join(
        f"the first exceeds that of the {end} by {one.value:+.3g} (95 % interval {one.low:+.3g} to {one.high:+.3g})"
        for end, one in zip(("teacher", "student"), excesses, strict=True)
        if one.known
    )
    return (
        f"{answer}: KID {measured(*kid['between'])} between them, from other seeds, {measured(*kid['teacher'])} from "
        f"the teacher to the data and {measured(*kid['student'])} from the student to it; two samples of the student: "
        f"{measured(*kid['again'])}{f'; {told}' if told else ''}."
    )


def growth(study: MinimaStudy, name: str, steps: Sequence[int]) -> str:
    """Return whether the distance between teacher and student grows with the teacher's steps, as a sentence."""
    apart = {number: spread(study.find("teacher", number, DATA).frechet)[0] for number in steps}
    good = [number for number in steps if apart[number] <= NEAR * min(apart.values())]
    told = f"{', '.join(map(str, good[:-1]))} and {good[-1]}" if len(good) > 1 else str(good[0])
    claim = f"the distance of {name} to its teacher grows with the teacher's steps"
    where = f"with {told} steps the teacher is near the data (Frechet distance at most {NEAR} times its smallest)"
    if len(good) < FEWEST_STEPS:
        return f"Not decided: {claim}; {where}, and {FEWEST_STEPS} such numbers of steps are needed."
    per_step = [study.find("teacher", number, name).frechet for number in good]
    link = mean_rank_correlation([spearman(good, row) for row in zip(*per_step, strict=True)], len(good))
    return f"{verdict(link, claim)} One correlation a repetition, over the numbers of steps that count: {where}."


def same_map(study: MinimaStudy, name: str, steps: int) -> str:
    """Return how alike the two images of one seed are, as a sentence."""
    row = study.find("teacher", steps, name, same_seeds=True)
    if not (any(row.unpaired_features) and any(row.unpaired_pixels)):
        return f"How alike images of one seed are is not known of {name}: none of its images of one class differ."
    near, far = spread(row.features)[0], spread(row.unpaired_features)[0]
    return (
        f"The images that the teacher in {steps} steps and {name} make from one seed are {near / far:.0%} as far "
        f"apart, in features, as those of two seeds of the same class "
        f"({spread(row.pixels)[0] / spread(row.unpaired_pixels)[0]:.0%} in pixels)."
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
        numbers = [
            measured(*spread(values)) if values else None
            for values in (one.pixels, one.unpaired_pixels, one.features, one.unpaired_features)
        ]
        seeds = "same seeds" if one.same_seeds else "other seeds"
        against = DATA if one.reference == DATA else f"{one.reference}, {seeds}"
        rows.append(
            (one.generator, one.calls, against, *(measured(*spread(v)) for v in (one.frechet, one.kid)), *numbers)
        )
    rows.sort(key=lambda row: (row[0] != "teacher", row[1], row[2]))
    return Table(f"Distances in {study.space}, N = {study.images:,}, {study.repetitions} repetitions", columns, rows)


def series(study: MinimaStudy, reference: str, what: str, *, same_seeds: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the teacher's calls [S] and its distances [S, repetitions] to a reference; `what` is a field's name."""
    asked = ("teacher", reference, same_seeds)
    rows = sorted(
        (d for d in study.distances if (d.generator, d.reference, d.same_seeds) == asked), key=lambda d: d.steps
    )
    return np.array([row.calls for row in rows]), np.array([getattr(row, what) for row in rows])
