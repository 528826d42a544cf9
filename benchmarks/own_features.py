"""The teacher's own features as a judge beside the projected one, at equal seconds: a sweep, then three seeds.

python benchmarks/own_features.py --digits-only                       start, or go on; 25 minutes of one core
python benchmarks/own_features.py --data cifar10-train-32x32.zip      CIFAR-10 at 16x16, too; an hour in all
python benchmarks/own_features.py --report                            write the section of the page, and its figure
python benchmarks/own_features.py --rehearse                          every step once, at toy size, on digits

Each setting but the winner differs from the first one in one thing. All of them and the projected judge's recipe are
trained for --seconds on a seed that is not used again; the two with the lowest KID over both feature spaces, and the
projected judge, are then trained for --final-seconds with three seeds. Neither space has anything in common with either
judge.

Seconds are the processor's, on one thread, with what an objective or a judge prepares; examinations are not counted.
The contenders of a seed take turns, one iteration each, so that the machine is as fast for one as for the other. A
linearly decaying rate ends with the seconds. Results are lines of benchmarks/results/own-features.jsonl, written when a
seed is done; the same command again continues with what is missing.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import torch
from accelerate import Accelerator
from cifar10_study import Study
from examination import generate_pixels, rounded
from own_features_report import FIXED, PROJECTED, rank, write
from study_records import Records, alone
from study_rows import FULL, QUICK, TRIAL_SEED, Size
from study_work import STOPPED
from time_to_quality import Contender, enter, examine

from d2o.objectives.gan import judge_loss
from d2o.training.loop import train
from d2o.training.recipe import Recipe, change
from d2o.training.recipes import RECIPES
from d2o.training.state import Progress

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "own-features.jsonl"
PAGE = HERE.parent / "docs" / "how-to" / "judges.md"
FIGURE = HERE.parent / "docs" / "images" / "own-features.png"
KEYS = ("data", "setting", "seed", "budget")
FINALISTS = 2
ENDLESS = 10**9
POINTS = 20
"""Of a run's curve of losses."""
ENCODER = ("enc.*_block*", "enc.*_down")
DEEPEST = ("dec.*_in*",)
DECODER = ("dec.*_block*", "dec.*_up")


def vary(rate: float, r1: float) -> dict[str, dict[str, Any]]:
    """Return all settings: what each changes in the recipe, which has the winner's noise.

    All others but those of noise have the low level with which the sweep began. `rate` is the judge's own. `r1` is of a
    sum over places: the more there are, the smaller it must be.
    """
    noise = ("discriminator.sigma_mean", "discriminator.sigma_deviation")
    low = {noise[0]: -3.5}
    changes: dict[str, dict[str, Any]] = {
        "noise of a low level": {},
        "heads 32 wide": {"discriminator.width": 32},
        "heads of 1x1 convolutions": {"discriminator.kernel": 1},
        "one logit a map": {"discriminator.logits": "map"},
        "taps in the encoder": {"discriminator.taps": ENCODER},
        "taps in the deepest blocks": {"discriminator.taps": DEEPEST},
        "taps in the decoder": {"discriminator.taps": DECODER},
        "taps in all blocks": {"discriminator.taps": (*ENCODER, *DEEPEST, *DECODER)},
        "nearly clean": dict(zip(noise, (-5.0, 0.1), strict=True)),
        "noise over a wide range": dict(zip(noise, (-2.5, 1.5), strict=True)),
        "three times the judge's rate": {"discriminator_learning_rate": 3 * rate},
        "R1": {"objectives.0.r1": r1},
        "relativistic, R1 and R2": {
            f"objectives.0.{k}": v for k, v in (("loss", "relativistic"), ("r1", r1), ("r2", r1))
        },
    }
    return {"noise of a middle level": {}, **{name: {**low, **changed} for name, changed in changes.items()}}


@dataclass(frozen=True)
class Case:
    """A data set with its teacher, the beginning of its recipes' names, two feature spaces, and how long runs are."""

    name: str
    size: Size
    recipes: str
    spaces: tuple[str, str]
    seconds: float
    final_seconds: float
    r1: float
    batch_size: int | None = None

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        own = RECIPES[f"{self.recipes}-own-features"]
        return {PROJECTED: {}, **vary(own.discriminator_learning_rate, self.r1)}

    def recipe(self, setting: str) -> Recipe:
        recipe = RECIPES[f"{self.recipes}-{'d2o-f' if setting == PROJECTED else 'own-features'}"]
        for path, value in self.settings[setting].items():
            recipe = change(recipe, path, value)
        return replace(recipe, duration=ENDLESS, batch_size=self.batch_size or recipe.batch_size)


TEACHER = {"teacher": "digits-teacher"}
DIGITS = Case(
    "digits-8",
    replace(QUICK, name="digits-8", held_out=500, classifier=60_000, examined=1_000, seeds=FULL.seeds, **TEACHER),
    "digits", ("classifier", "pixels"), 40, 80, 5e-5,
)  # fmt: skip
CIFAR10 = Case("cifar10-16", FULL, "cifar10-small", ("classifier", "views"), 50, 120, 3e-6)


def shrink(case: Case) -> Case:
    """Return a case for a rehearsal: digits, some iterations a run."""
    size = replace(QUICK, classifier=128, views=128, seeds=(0, 1), **TEACHER)
    return replace(case, size=size, seconds=0.1, final_seconds=0.3, batch_size=8)


def race(case: Case, study: Study, settings: Sequence[str], seed: int, seconds: float) -> list[Contender]:
    """Train all settings in turn, the one of the fewest seconds first, until each has had its own, and an iteration.

    A mark is an iteration; the last one, and of several contenders that at half of the seconds, have KIDs.
    """
    contenders = [enter(name, case.recipe(name), study, seed) for name in settings]
    while active := [one for one in contenders if not one.marks or (one.seconds < seconds and not one.is_done)]:
        one = min(active, key=lambda contender: contender.seconds)
        is_first_half = one.seconds < seconds / 2
        progress = one.advance(one.recipe.batch_size)
        mark = {"images": progress.images, "seconds": one.seconds, "loss": progress.losses["discriminator"]}
        one.marks.append(mark)
        is_half = is_first_half and one.seconds >= seconds / 2
        if is_half and one.recipe.learning_rate_decay == "linear":
            let_decay(one, progress, study)
        if (is_half and len(contenders) > 1) or one.seconds >= seconds or one.is_done:
            pixels = generate_pixels(progress.ema, 1, study.size.examined)
            mark["kid"] = {space: rounded(value) for space, value in examine(study, pixels, case.spaces).items()}
    return contenders


def let_decay(one: Contender, progress: Progress, study: Study) -> None:
    """Continue a run at its half: a linearly decaying rate, constant so far, will be 0 at twice the images."""
    recipe = one.recipe = replace(one.recipe, duration=2 * progress.images)
    batches = study.images()[0].batches(recipe.batch_size, seed=recipe.seed, start=progress.images)
    made, alone_here = progress.networks, Accelerator(cpu=True)
    one.run = train(recipe, made, batches, resume=progress.state(), accelerator=alone_here)


def describe(one: Contender) -> dict[str, Any]:
    """Return what a run has reached, and its curve: the judge's loss as a share of what guessing costs."""
    nothing = [torch.zeros(1, 1)]
    chance = float(judge_loss(one.recipe.objectives[0].loss, nothing, nothing))
    parts = np.array_split(np.arange(len(one.marks)), min(POINTS, len(one.marks)))
    curve = []
    for part in parts:
        marks = [one.marks[k] for k in part]
        kid = next(({"kid": mark["kid"]} for mark in marks if "kid" in mark), {})
        loss = rounded(float(np.mean([mark["loss"] for mark in marks])) / chance)
        curve.append({"seconds": round(marks[-1]["seconds"], 1), "images": marks[-1]["images"], "loss": loss, **kid})
    return {**{key: curve[-1][key] for key in ("images", "seconds", "kid")}, "curve": curve}


def work(case: Case, study: Study, records: Records, command: str) -> None:
    """Do what is not done: the sweep, then the finals of its best."""

    def measure(settings: Sequence[str], seed: int, seconds: float) -> None:
        about = [{"data": case.name, "setting": one, "seed": seed, "budget": seconds} for one in settings]
        if all(records.has(**row) for row in about):
            return
        found = race(case, study, settings, seed, seconds)
        changes = [{"settings": case.settings[one], "command": command} for one in settings]
        rows = [{**row, **describe(one), **more} for row, one, more in zip(about, found, changes, strict=True)]
        records.write(rows)
        for row in rows:
            print(*(row[key] for key in (*KEYS, "images", "seconds", "kid")), flush=True)

    if not all(records.has(data=case.name, setting=setting) for setting in FIXED):
        records.write(list(measure_fixed(case, study, command)))
    for setting in case.settings:
        measure([setting], TRIAL_SEED, case.seconds)
    swept = [row for row in records.rows if (row["data"], row["budget"]) == (case.name, case.seconds)]
    best = [row["setting"] for row in rank(swept) if row["setting"] != PROJECTED]
    for seed in study.size.seeds:
        measure([PROJECTED, *best[:FINALISTS]], seed, case.final_seconds)


def measure_fixed(case: Case, study: Study, command: str) -> Iterator[dict[str, Any]]:
    """Yield the records of what nobody trained: real images, and the teacher in one call."""
    floor = study.examiner(case.spaces).floor
    kids = ({space: floor[space].kid for space in case.spaces}, examine(study, study.teacher_images(1), case.spaces))
    for setting, kid in zip(FIXED, kids, strict=True):
        about = {"data": case.name, "setting": setting, "seed": 0, "budget": 0, "images": 0, "seconds": 0.0}
        yield {**about, "kid": {space: rounded(value) for space, value in kid.items()}, "command": command}


def say_command(options: argparse.Namespace) -> str:
    """Return what makes the records again."""
    words = [f"--data {Path(options.data).name}"] if options.data else ["--digits-only"]
    numbers = {"--seconds": options.seconds, "--final-seconds": options.final_seconds}
    words += [f"{name} {value:g}" for name, value in numbers.items() if value is not None]
    return " ".join(["python benchmarks/own_features.py", *words])


def main() -> int:
    """Read the options and work; 2 for what cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="CIFAR-10's 50,000 training images")
    parser.add_argument("--digits-only", action="store_true", help="leave CIFAR-10 out")
    parser.add_argument("--seconds", type=float, help="of a run of the sweep; by default 40 on digits, 50 on CIFAR-10")
    parser.add_argument("--final-seconds", type=float, help="of a run of the finals; by default 80 and 120")
    parser.add_argument("--runs", type=Path, default=Path("runs/own-features"), help="folder for what need not be kept")
    parser.add_argument("--rehearse", action="store_true", help="toy size, on digits, everything in the folder of runs")
    parser.add_argument("--report", action="store_true", help="write the page's section and figure, train nothing")
    options = parser.parse_args()
    runs, results, page, figure = options.runs, RESULTS, PAGE, FIGURE
    cases = [(DIGITS, "digits")] + ([] if options.digits_only else [(CIFAR10, options.data)])
    if options.rehearse:
        runs = runs / "rehearsal"
        results, page, figure = (runs / place.name for place in (RESULTS, PAGE, FIGURE))
        cases = [(shrink(case), "digits") for case in (DIGITS, CIFAR10)]
    if not options.report and any(data is None for _, data in cases):
        parser.error("name CIFAR-10's images with --data, or leave them out with --digits-only")
    records = Records(results, runs / "locks", KEYS)
    longer = {key: value for key in ("seconds", "final_seconds") if (value := getattr(options, key)) is not None}
    if not options.report:
        torch.set_num_threads(1)
        try:
            with alone(runs / "locks" / "sweep", wait=False) as is_mine:
                if not is_mine:
                    raise ValueError(f"Another process works in {runs}: wait for it, or name another with --runs.")
                for case, data in cases:
                    study = Study(case.size, data, runs / case.name, runs)
                    study.runs.mkdir(parents=True, exist_ok=True)
                    study.claim()
                    work(replace(case, **longer), study, records, say_command(options))
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("Stopped. The same command again continues with what is missing.", file=sys.stderr)
            return STOPPED
    if not records.rows:
        print(f"{results} holds no records: leave --report out first.", file=sys.stderr)
        return 2
    if options.report or options.rehearse:
        write(records.rows, page, figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
