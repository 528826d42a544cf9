"""Images of a teacher and its students beside each other: their distances, measured once and kept as numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from d2o.diffusion.denoiser import Denoiser
from d2o.metrics.distances import distances
from d2o.metrics.evaluation import pair_up
from d2o.metrics.look import Look, look
from d2o.metrics.sources import generated

from .trials import Bench, Score

DATA = "real data"
OTHER_SEEDS = 1_000_000_000
"""Where the students' second seeds begin, far from the first, so that more repetitions can be added later."""
PAIRED = ("pixels", "features", "unpaired_pixels", "unpaired_features")


@dataclass(frozen=True)
class Distance:
    """One generator's images against a reference: one number a repetition in each list; pairs have the same seeds."""

    generator: str
    steps: int
    reference: str
    same_seeds: bool
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


class Repetition:
    """One repetition: its seeds, and the students' images, made when a comparison that is not known needs them."""

    def __init__(self, bench: Bench, students: Mapping[str, Denoiser], number: int) -> None:
        first = bench.count * number
        self.bench, self.students = bench, students
        self.seeds, self.others = (range(start, start + bench.count) for start in (first, OTHER_SEEDS + first))

    @cached_property
    def samples(self) -> dict[str, Look]:
        """The students' images from the seeds."""
        return {name: self.seen(student, self.seeds, name) for name, student in self.students.items()}

    @cached_property
    def again(self) -> dict[str, Look]:
        """The students' images from other seeds."""
        return {
            name: self.seen(student, self.others, name, keep_pixels=False) for name, student in self.students.items()
        }

    def seen(
        self, denoiser: Denoiser, seeds: Sequence[int], name: str, steps: int = 1, *, keep_pixels: bool = True
    ) -> Look:
        """Make one image a seed, and look at them."""
        judge = self.bench.judge(0)  # for its feature network and the real images, which are the same for all
        stream = generated(denoiser, seeds, steps=steps, batch_size=self.bench.batch_size, name=name)
        stream = replace(stream, batches=self.bench.counted(stream.batches, stream.count, name))
        return look(stream, name, judge.embedding.name, judge.embed, keep_pixels=keep_pixels)

    def student(self, name: str) -> Score:
        """Compare a student with the data, and with itself from other seeds."""
        return self.compared(self.samples[name], {name: self.again[name]})

    def teacher(self, teacher: Denoiser, steps: int) -> Score:
        """Compare a teacher's images in so many steps with the data and every student."""
        return self.compared(self.seen(teacher, self.seeds, "teacher", steps), self.again, self.samples)

    def compared(self, sample: Look, *references: Mapping[str, Look]) -> Score:
        """Return the distances of a sample to the data and to samples of students, with the space they are in."""
        judge = self.bench.judge(0)
        rows = [comparison(sample, judge.reference, DATA)]
        rows += [comparison(sample, seen, name) for looks in references for name, seen in looks.items()]
        return {"space": judge.embedding.name, "distances": rows}


def comparison(sample: Look, reference: Look, name: str) -> dict[str, Any]:
    """Return the numbers of one comparison; images of the same seeds are also compared pair by pair."""
    found, same_seeds = distances(sample.features, reference.features), sample.seeds == reference.seeds
    row = {"reference": name, "same_seeds": same_seeds, "frechet": found.frechet, "kid": float(found.kid or 0)}
    if not same_seeds:
        return row
    pairs = pair_up(sample, reference)
    return row | {what: getattr(pairs, what) for what in PAIRED}


def over_repetitions(generator: str, steps: int, scores: Sequence[Score]) -> list[Distance]:
    """Return a generator's distances to every reference, each with one number a repetition."""
    return [
        Distance(
            generator,
            steps,
            rows[0]["reference"],
            rows[0]["same_seeds"],
            *(tuple(row[what] for row in rows) for what in ("frechet", "kid")),
            **{what: tuple(row[what] for row in rows if row.get(what) is not None) for what in PAIRED},
        )
        for rows in zip(*(score["distances"] for score in scores), strict=True)
    ]
