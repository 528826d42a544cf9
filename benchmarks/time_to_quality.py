"""Seconds of training until one call is as near to the data as the teacher's 35: three ways to train, three seeds.

python benchmarks/time_to_quality.py --data cifar10-train-32x32.zip     start, or go on; hours of one core
python benchmarks/time_to_quality.py --json                             what has been measured, as JSON
python benchmarks/time_to_quality.py --quick                            every step once, at toy size, on digits

plain   the released code's way: features at 64 px, heads of full width, new fakes and features for the discriminator's
        turn, gradients of frozen weights, nothing cached, none of d2o.kernels; rates and batch of v010
v010    0.1.0's default for this data, cifar10-small-d2o-f
best    today's best recipe

All three train in one process, on one thread: whoever has trained for the shortest time goes on to its next mark, where
its average's KID is taken in both feature spaces of the study. Seconds are the processor's, those of a free core; the
examinations are not counted. The best way and v010 train to their ends; where v010 is not as near as the teacher there,
it is prolonged by half, and so on. The plain way, and v010 from its end, are stopped when they are as near, when they
have taken three times and one and a half times the best way's seconds, or after --limit seconds: what they have not
reached has a lower bound. A seed is kept when it is done; started twice, the benchmark works on two.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import torch
from accelerate import Accelerator
from cifar10_study import Study
from examination import generate_pixels
from steps import plain_kernels
from study_records import alone
from study_rows import SIZES, Size
from torch import nn

from d2o.data.datasets import Images
from d2o.discriminators import Projected
from d2o.files import atomic
from d2o.metrics.distances import kid
from d2o.objectives import Adversarial
from d2o.objectives.objective import Networks
from d2o.training.loop import Progress, begin, train
from d2o.training.networks import networks
from d2o.training.recipe import Recipe, to_dict
from d2o.training.recipes import RECIPES

SPACES = ("lite2", "classifier")
TEACHER_STEPS = 18
"""Heun's, 35 calls of the network."""
RESULTS = Path(__file__).parent / "results" / "time_to_quality"
SEEDS = (0, 1, 2)
EVERY = 2_000
"""Images between two examinations of a way."""
ENOUGH = {"plain": 3.0, "v010": 1.5}
"""How many times the best way's seconds the others may take."""
V010 = RECIPES["cifar10-small-d2o-f"]
WAYS: dict[str, Recipe] = {
    "plain": replace(V010, objectives=(Adversarial(fresh_fakes=True),), discriminator=Projected(size=64, width=512)),
    "v010": V010,
    "best": RECIPES["cifar10-small-d2o-f-best"],
}


@dataclass
class Contender:
    """A way to train, where it stands, and what was found at its marks."""

    name: str
    recipe: Recipe
    images: Images
    networks: Networks
    frozen: list[nn.Parameter]
    run: Iterator[Progress] = field(default_factory=lambda: iter(()))
    progress: Progress | None = None
    seconds: float = 0.0
    marks: list[dict[str, Any]] = field(default_factory=list)

    def set_out(self) -> None:
        """Start the run, or go on with it by another recipe; the plain way takes its first iteration here."""
        seen, resume = (self.progress.images, self.progress.state()) if self.progress else (0, None)
        batches = self.images.batches(self.recipe.batch_size, seed=self.recipe.seed, start=seen)
        if self.name == "plain":
            batches = (tuple(batch)[:3] for batch in batches)  # without the numbers by which features are cached
        self.run = train(self.recipe, self.networks, batches, resume=resume, accelerator=Accelerator(cpu=True))
        if self.name == "plain":  # frozen weights have gradients, but are in no optimiser and do not move
            for needed in (False, True):
                for parameter in self.frozen:
                    parameter.requires_grad_(needed)
                self.progress = self.progress if needed else next(self.run)

    def advance(self, images: int) -> Progress:
        """Train on so many images, or to the end, and count the seconds; what is at its end is prolonged by half."""
        began = time.process_time()
        with plain_kernels() if self.name == "plain" else nullcontext():
            if self.is_done:
                self.recipe = replace(self.recipe, duration=self.recipe.duration * 3 // 2)
                self.set_out()
            for progress in self.run:
                self.progress, seen = progress, progress.images
                if seen % images < self.recipe.batch_size or seen >= self.recipe.duration:
                    break
        assert self.progress is not None
        self.seconds += time.process_time() - began
        return self.progress

    def reached(self, target: dict[str, float]) -> dict[str, Any] | None:
        """Return the first mark at which every KID is the target's or less."""
        return next((mark for mark in self.marks if all(mark["kid"][space] <= target[space] for space in target)), None)

    @property
    def is_done(self) -> bool:
        return bool(self.marks) and self.marks[-1]["images"] >= self.recipe.duration


def enter(name: str, recipe: Recipe, study: Study, seed: int) -> Contender:
    """Return a contender at its start."""
    recipe, (images, _) = replace(recipe, seed=seed), study.images()
    with plain_kernels() if name == "plain" else nullcontext():
        made = networks(recipe, study.teacher())
        began = time.process_time()
        stream = partial(images.batches, recipe.batch_size, seed=seed)
        begin(recipe, made, stream, len(images), accelerator=Accelerator(cpu=True))
        frozen = [parameter for parameter in made.student.parameters() if not parameter.requires_grad]
        contender = Contender(name, recipe, images, made, frozen)
        contender.set_out()
        contender.seconds = time.process_time() - began
    return contender


def examine(study: Study, pixels: Any, spaces: tuple[str, ...] = SPACES) -> dict[str, float]:
    """Return the KID of images to those held out, in every feature space."""
    examiner = study.examiner(spaces)
    pairs = {space: (examiner.features(pixels, space).values, examiner.reference[space].values) for space in spaces}
    return {space: kid(*pair)[0] for space, pair in pairs.items()}  # pyright: ignore[reportArgumentType]


def race(
    study: Study, ways: dict[str, Recipe], seed: int, target: dict[str, float], limit: float
) -> dict[str, list[dict[str, Any]]]:
    """Return what was found at every mark of every way, until all are done or stopped."""
    contenders = [enter(name, recipe, study, seed) for name, recipe in ways.items()]
    best = next(one for one in contenders if one.name == "best")

    def goes_on(one: Contender) -> bool:
        if one is best or (one.name == "v010" and one.recipe.duration == ways["v010"].duration and not one.is_done):
            return not one.is_done
        its = best.reached(target)
        if one.reached(target) or (best.is_done and its is None):
            return False
        return one.seconds < min(limit, ENOUGH[one.name] * its["seconds"] if its else limit)

    while active := [one for one in contenders if goes_on(one)]:
        one = min(active, key=lambda contender: contender.seconds)
        progress = one.advance(min(EVERY, max(one.recipe.duration // 2, 1)))
        pixels = generate_pixels(progress.ema, 1, study.size.examined)
        mark = {"images": progress.images, "seconds": round(one.seconds, 1), "kid": examine(study, pixels)}
        one.marks.append(mark)
        print(f"seed {seed} {one.name} {json.dumps(mark)}", flush=True)
    return {one.name: one.marks for one in contenders}


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over seeds: seconds and images until the target is reached in all spaces, and in each alone."""
    if not rows:
        return {"seeds": [], "spaces": list(SPACES), "seconds": {}, "images": {}, "ratio": {}}
    return {
        "seeds": [row["seed"] for row in rows],
        "spaces": list(SPACES),
        "target": rows[0]["target"],
        **describe(rows, SPACES),
        "in_one_space": {space: describe(rows, (space,)) for space in SPACES},
        "final_kid": {
            way: {space: median(row["marks"][way][-1]["kid"][space] for row in rows) for space in SPACES}
            for way in WAYS
        },
    }


def describe(rows: list[dict[str, Any]], spaces: tuple[str, ...]) -> dict[str, Any]:
    """Return seconds, images and ratios to the target in these spaces; of a way that did not reach it, a lower bound.

    A ratio is None unless the best way has reached it in every seed.
    """
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    images: dict[str, list[int]] = {way: [] for way in WAYS}
    reached: dict[str, int] = dict.fromkeys(WAYS, 0)
    for row in rows:
        for way, marks in row["marks"].items():
            good = (mark for mark in marks if all(mark["kid"][space] <= row["target"][space] for space in spaces))
            first = next(good, None)
            reached[way] += first is not None
            seconds[way].append((first or marks[-1])["seconds"])
            images[way].append((first or marks[-1])["images"])
    is_known = reached["best"] == len(rows)
    shares = {
        f"to_{way}": [best / other for best, other in zip(seconds["best"], seconds[way], strict=True)]
        for way in ("plain", "v010")
    }
    return {
        "seconds": {way: median(values) for way, values in seconds.items()},
        "images": {way: median(values) for way, values in images.items()},
        "seeds_that_reached_it": reached,
        "ratio": {name: round(median(values), 3) if is_known else None for name, values in shares.items()},
        "ratio_range": {
            name: [round(min(values), 3), round(max(values), 3)] if is_known else None
            for name, values in shares.items()
        },
    }


def read_rows(results: Path) -> list[dict[str, Any]]:
    """Return the seeds that are done."""
    return [json.loads(file.read_text()) for file in sorted(results.glob("seed*.json"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="CIFAR-10's 50,000 training images; without, nothing is trained")
    parser.add_argument("--teacher", default="cifar10-small-teacher")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10-16"), help="the study's folder, for its space")
    parser.add_argument("--limit", type=float, default=2000, help="seconds that the others may take at most")
    parser.add_argument("--quick", action="store_true", help="toy size, on digits, into the folder of runs")
    parser.add_argument("--json", action="store_true", help="print what has been measured")
    options = parser.parse_args()
    size, ways, results, data = SIZES["cifar10-16"], WAYS, RESULTS, options.data
    if options.quick:
        size, data, options.seeds = SIZES["quick"], "digits", (0,)
        options.runs = options.runs / "quick"
        options.teacher, results = "digits-teacher", options.runs / "time_to_quality"
        ways = {name: shrink(recipe, size) for name, recipe in WAYS.items()}
    if data is not None:
        torch.set_num_threads(1)
        options.runs.mkdir(parents=True, exist_ok=True)
        study = Study(size, data, options.runs, results, options.teacher)
        for seed in options.seeds:
            with alone(options.runs / "locks" / f"time-to-quality-{seed}", wait=False) as is_mine:
                file = results / f"seed{seed}.json"
                if is_mine and not file.exists():
                    measure(study, ways, seed, options.limit, file)
    elif not options.json:
        parser.error("give --data, or --json to see what has been measured")
    found = summarise(read_rows(results))
    print(json.dumps(found, indent=2) if options.json else show(found))


def shrink(recipe: Recipe, size: Size) -> Recipe:
    return replace(
        recipe, duration=size.marks[-1], batch_size=32, discriminator=replace(recipe.discriminator, weights="random")
    )


def measure(study: Study, ways: dict[str, Recipe], seed: int, limit: float, file: Path) -> None:
    """Write what a seed's race found."""
    target = examine(study, study.teacher_images(TEACHER_STEPS))
    row = {
        "seed": seed,
        "target": target,
        "recipes": {name: to_dict(recipe) for name, recipe in ways.items()},
        "marks": race(study, ways, seed, target, limit),
        "command": f"python benchmarks/time_to_quality.py --data {Path(study.data).name} --limit {limit:g}",
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(row, indent=1) + "\n")


def show(found: dict[str, Any]) -> str:
    """Return a table in markdown."""
    lines = ["| way | images | seconds | seeds that reached it | best's share |", "|---|---|---|---|---|"]
    for way in found["seconds"]:
        ratio = found["ratio"].get(f"to_{way}", "")
        share = "unknown" if ratio is None else ratio
        reached = f"{found['seeds_that_reached_it'][way]} of {len(found['seeds'])}"
        lines.append(f"| {way} | {found['images'][way]:,.0f} | {found['seconds'][way]:,.0f} | {reached} | {share} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
