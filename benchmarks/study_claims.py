"""What the study says of each claim: holds, fails, or not decided, from intervals of differences over seeds.

A difference is taken between runs of the same seed, in every feature space apart; its 95 % interval is Student's. A
claim holds when all of its differences have the right sign with all of their intervals, and fails when one of them has
the wrong sign with all of its interval. Else it is not decided.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from study_records import HELD_OUT

SPACES = {
    "lite2": "EfficientNet-lite2 at 64 px",
    "classifier": "the study's classifier",
    "views": "the study's network without labels",
}
DISTILLED = ("cd", "pd", "ctm")
MATCHING = ("dmd2", "dmd2-gan")
LEVEL = 1.1
"""Seconds up to so many times as long count as equal: speeds are known to some per cent."""


@dataclass(frozen=True)
class Difference:
    """The mean difference of a number between two sides, over `seeds`, with its interval (None: fewer than two)."""

    what: str
    space: str
    value: float
    interval: tuple[float, float] | None
    seeds: int

    @property
    def verdict(self) -> str:
        """Return holds where it is below zero, as every claim is written down here."""
        if self.interval is None:
            return "not decided"
        return "holds" if self.interval[1] < 0 else "fails" if self.interval[0] > 0 else "not decided"


@dataclass(frozen=True)
class Claim:
    """One claim with all differences that it says are below zero, and what else there is to tell."""

    letter: str
    sentence: str
    differences: tuple[Difference, ...]
    remark: str = ""

    @property
    def verdict(self) -> str:
        verdicts = [one.verdict for one in self.differences]
        if "fails" in verdicts:
            return "fails"
        return "holds" if verdicts and all(verdict == "holds" for verdict in verdicts) else "not decided"

    @property
    def weakest(self) -> Difference | None:
        """The difference that speaks least for the claim: of those that speak against it, if any does."""
        against = [one for one in self.differences if one.verdict == "fails"]
        chosen = against or self.differences
        reach = [(one.interval[1] if one.interval else math.inf, one.value) for one in chosen]
        return chosen[reach.index(max(reach))] if reach else None

    def as_dict(self) -> dict[str, Any]:
        weakest = self.weakest
        return {
            "claim": self.letter,
            "sentence": self.sentence,
            "verdict": self.verdict,
            "difference": weakest and weakest.value,
            "interval": weakest and weakest.interval,
            "differences": [{**asdict(one), "verdict": one.verdict} for one in self.differences],
            "remark": self.remark,
        }


def student(values: Sequence[float], what: str, space: str) -> list[Difference]:
    """Return the mean of values with Student's interval; nothing of no values."""
    from scipy import stats

    if not len(values):
        return []
    mean, count, interval = float(np.mean(values)), len(values), None
    if count > 1:
        reach = float(np.std(values, ddof=1) / math.sqrt(count) * stats.t.ppf(0.975, count - 1))
        interval = (mean - reach, mean + reach)
    return [Difference(what, space, mean, interval, count)]


def timed(row: dict[str, Any], speeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the seconds that its images take by the row's speed, where that is known."""
    name = row["row"].partition("-real")[0]
    known = speeds.get("cd" if name.removeprefix("cd-").isdigit() else name)
    if known is None or not row["images"]:
        return row
    before, per_image = (float(np.mean(known[what])) for what in ("before", "per_image"))
    return {**row, "seconds": before + per_image * row["images"]}


class Results:
    """The records of a study, whose seconds are those of `speeds` (study_speeds.py) where these have been measured."""

    def __init__(self, rows: Iterable[dict[str, Any]], speeds: Mapping[str, Any] | None = None) -> None:
        self.speeds = speeds or {}
        self.rows = [timed(row, self.speeds) for row in rows]
        self.marks = sorted({row["images"] for row in self.rows} - {0})

    def runs(self, name: str, space: str, images: int | None = None, reference: str = HELD_OUT) -> dict[int, Any]:
        """Return a row's records by their seeds, of one mark."""
        return {
            row["seed"]: row
            for row in self.rows
            if (row["row"], row["feature_space"], row["reference"]) == (name, space, reference)
            and (images is None or row["images"] == images)
        }

    def value(self, name: str, space: str, what: str = "kid") -> float | None:
        """Return the number of a row that nothing was trained for."""
        found = self.runs(name, space, 0)
        return found[0][what] if found else None

    def below(self, one: str, other: str, images: int, what: str = "kid") -> list[Difference]:
        """Return how far one row's number lies below another's at equal images, in every space."""
        found = []
        for space in SPACES:
            sides = self.runs(one, space, images), self.runs(other, space, images)
            values = [sides[0][seed][what] - sides[1][seed][what] for seed in sorted(sides[0].keys() & sides[1].keys())]
            found += student(values, f"{what}, {one} minus {other}, {images:,} images", space)
        return found

    def below_in_time(self, one: str, other: str, images: int) -> list[Difference]:
        """Return the same where the other has seen so many images, and the first has taken as many seconds or fewer."""
        found = []
        for space in SPACES:
            values = []
            for seed, run in sorted(self.runs(other, space, images).items()):
                there = [self.runs(one, space, mark).get(seed) for mark in self.marks]
                quick = [mine for mine in there if mine and mine["seconds"] <= LEVEL * run["seconds"]]
                values += [quick[-1]["kid"] - run["kid"]] if quick else []
            found += student(values, f"kid, {one} minus {other}, in the seconds of {images:,} images", space)
        return found


def joined(parts: Iterable[list[Difference]]) -> tuple[Difference, ...]:
    return tuple(one for part in parts for one in part)


def distillation(results: Results) -> Claim:
    pairs = [(other, mark) for mark in results.marks for other in DISTILLED]
    differences = [results.below("d2o-f", *pair) for pair in pairs]
    differences += [results.below_in_time("d2o-f", *pair) for pair in pairs]
    return Claim("a", "D2O-F beats instance distillation (CD, PD, CTM) at equal images and at equal seconds",
                 joined(differences))  # fmt: skip


def sizes(results: Results) -> list[int]:
    """Return how many real images the rows saw that saw few."""
    names = (row["row"].partition("d2o-f-real") for row in results.rows)
    return sorted({int(count) for before, _, count in names if not before and count})


def freezing(results: Results) -> Claim:
    pairs = [(f"d2o-f-real{real}", f"d2o-real{real}") for real in sizes(results)]
    differences = joined(results.below(*pair, mark) for pair in pairs for mark in results.marks)
    return Claim("b", "freezing beats full training if real images are few", differences)


def slow_start(results: Results) -> Claim:
    first = results.marks[:1]
    return Claim("c", "adding CD to the GAN slows the start", joined(results.below("d2o", "cd-gan", m) for m in first))


def apart(results: Results) -> Claim:
    """Slopes over the logarithm of the teacher's steps: (teacher, data) minus (student, teacher), and minus the latter.

    The first says that the student's distance grows against the teacher's own, the second that it grows at all.
    """
    references = {row["reference"] for row in results.rows} - {HELD_OUT}
    steps = sorted(int(name.split()[2]) for name in references)
    differences, told = [], []
    for space in SPACES:
        by_steps = {k: results.runs(f"cd-{k}", space, reference=f"teacher in {k} steps") for k in steps}
        own = [results.value(f"teacher-{k}", space) for k in steps]
        seeds = sorted(set.intersection(*(set(runs) for runs in by_steps.values()))) if steps else []
        if len(steps) < 3 or not seeds or None in own:
            continue
        places = np.log2(steps)
        slopes = [float(np.polyfit(places, [by_steps[k][s]["kid"] for k in steps], 1)[0]) for s in seeds]
        own_slope = float(np.polyfit(places, np.asarray(own, float), 1)[0])
        differences += student([-slope for slope in slopes], "minus the slope of kid(student, teacher)", space)
        what = "slope of kid(teacher, data) minus that of kid(student, teacher)"
        differences += student([own_slope - slope for slope in slopes], what, space)
        means = [np.mean([by_steps[k][s]["kid"] for s in seeds]) for k in steps]
        pairs = ", ".join(f"{k}: {mean:.3g} | {mine:.3g}" for k, mean, mine in zip(steps, means, own, strict=True))
        told.append(f"{space} {pairs}")
    sentence = "a student's distance to its teacher grows with the teacher's steps, the teacher's to the data does not"
    remark = (
        f"KID of student and teacher | teacher and data, by steps: {'; '.join(told)}. All students saw as many images: "
        "one of more steps also learns more slowly, and how much of the growth that is was not measured"
    )
    return Claim("d", sentence, tuple(differences), remark if told else "")


def modes(results: Results) -> Claim:
    differences = joined(results.below("stylegan2", "d2o", mark, "recall") for mark in results.marks)
    return Claim("e", "StyleGAN2's discriminator loses modes (recall)", differences)


def matching(results: Results) -> Claim:
    differences = joined(results.below("d2o-f", other, mark) for mark in results.marks for other in MATCHING)
    held = []
    for name in ("d2o-f", "d2o", *MATCHING):
        runs = [run for mark in results.marks for run in results.runs(name, "lite2", mark).values()]
        if runs:
            size, peak = (np.mean([run[what] for run in runs]) for what in ("parameters", "peak_bytes"))
            held.append(f"{name} {size / 1e6:.2f} million parameters, {peak / 2**20:.0f} MiB")
    remark = f"Held at most: {'; '.join(held)}" if held else ""
    return Claim("f", "a GAN alone (D2O-F) is closer to the data than distribution matching", differences, remark)


def transformer(results: Results) -> Claim:
    """One call of the student against the fewest-distance number of steps of its teacher."""
    differences = []
    for space in SPACES:
        names = sorted({row["row"] for row in results.rows if row["row"].startswith("dit-teacher-")})
        best = min((value for name in names if (value := results.value(name, space)) is not None), default=None)
        marks = sorted({row["images"] for row in results.rows if row["row"] == "dit-flow-d2o-f"})
        for mark in marks[-1:] if best is not None else ():
            runs = results.runs("dit-flow-d2o-f", space, mark)
            values = [runs[seed]["kid"] - best for seed in sorted(runs)]
            differences += student(values, f"kid, one call minus its teacher's best, {mark:,} images", space)
    sentence = "D2O-F works for a transformer, too: one call is closer to the data than its teacher's best of many"
    return Claim("g", sentence, tuple(differences))


CLAIMS: tuple[Callable[[Results], Claim], ...] = (
    distillation, freezing, slow_start, apart, modes, matching, transformer,
)  # fmt: skip


def claims(results: Results) -> list[Claim]:
    """Return all claims with their verdicts."""
    return [claim(results) for claim in CLAIMS]
