"""What the scripts of this folder share: their options, short fine-tunings that continue, and results on disk."""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

import d2o
from d2o import pages
from d2o.analysis.intervals import spread
from d2o.analysis.measurement import Measurement, Score, remember
from d2o.analysis.report import Table, plain, show_mean
from d2o.checkpoints.delta import weights_sha256
from d2o.cli.options import DataOptions, Set, recipe_from
from d2o.cli.progress import counted
from d2o.diffusion.denoiser import Denoiser
from d2o.files import atomic, check_folder
from d2o.metrics.spaces import overlap
from d2o.objectives.objective import Networks
from d2o.training.fit import finetune
from d2o.training.networks import check_fit, networks
from d2o.training.one_recipe import summarise
from d2o.training.recipe import Recipe, to_dict
from d2o.training.run import Habits, Moment

SPENT = ("checkpoint.safetensors", "student.safetensors")
"""Files of a run that nobody needs once its result is known."""


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Options of every script. The same command resumes an interrupted one, and repeats nothing."""

    out: str
    """Directory of the results: JSON and PNG."""
    device: str = "cpu"
    """cpu, cuda, mps."""
    count: int = 500
    """Images to measure from every generator, and as many real ones."""
    features: str = "lite2"
    """Feature space, as in `d2o evaluate`."""
    weights: str = "auto"
    """File with the feature network's weights, if they are not installed."""
    repetitions: int = 2
    """Repetitions of everything, with other seeds, for the error bars."""
    batch: int = 64
    """Images at once; it does not change the result."""

    def measurement(self, study: str) -> Measurement:
        """Return how images are measured, and where results are kept."""
        if self.repetitions < 1:
            raise ValueError(f"--repetitions is at least 1, not {self.repetitions}.")
        options = {"count": self.count, "features": self.features, "weights": self.weights, "device": self.device}
        place = Path(self.out) / "trials" / study
        return Measurement(place, self.open(), batch_size=self.batch, counted=counted, **options)

    def load(self, model: str) -> Denoiser:
        """Return a model on the device."""
        return d2o.load(model, device=self.device)


@dataclass(frozen=True, kw_only=True)
class TuningOptions(Options):
    """Options of the scripts that fine-tune."""

    recipe: str = "digits-d2o"
    """How every trial is fine-tuned: a name (see `d2o recipes`) or a .json or .yaml file."""
    images: int = 2_560
    """Images of fine-tuning, the same for every trial."""
    set: Set = ()
    """Change any other key of the recipe: --set batch_size=32."""

    def tuning(self) -> Recipe:
        """Return the recipe of fine-tuning."""
        return one_recipe(self.recipe, {"duration": self.images}, self.set)


def one_recipe(name: str, changes: Mapping[str, Any], settings: Sequence[str]) -> Recipe:
    """Return a recipe as `recipe_from` does; stages are a ValueError, as every trial is a single run."""
    recipe = recipe_from(name, changes, settings)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{name} has stages, and a trial is a single run: name a recipe without (see d2o recipes).")
    return recipe


def measure(measurement: Measurement, name: str, model: Denoiser, repetition: int, steps: int = 1) -> Score:
    """Return the quality of a model's images, measured once."""
    settings = {**measurement.settings(), "sha256": weights_sha256(model), "steps": steps}
    file = measurement.directory / f"{name}-{repetition}.json"
    return remember(file, settings, lambda: evaluate(measurement, model, repetition, steps))


def evaluate(measurement: Measurement, model: Denoiser, repetition: int, steps: int) -> Score:
    """Return the quality of the images that a model makes of a repetition's seeds in so many steps."""
    return summarise(measurement.evaluator(model, seeds=measurement.seeds(repetition), steps=steps))


def fine_tune(
    measurement: Measurement,
    name: str,
    recipe: Recipe,
    teacher: Denoiser,
    repetition: int,
    *,
    origin: dict[str, Any] | None = None,
    prepare: Callable[[Denoiser], object] | None = None,
    steps: int = 1,
) -> Score:
    """Train by a recipe, or continue, or look up what was found; return the averaged student's quality.

    Its images are made in `steps` steps. `prepare` changes the student before it trains: `origin` must tell how. The
    student is `ema.safetensors` in the trial's directory.
    """
    recipe = replace(recipe, seed=recipe.seed + repetition)
    directory = trial_directory(measurement, name, repetition)
    origin = {**(origin or {}), "teacher_sha256": weights_sha256(teacher)}

    def make(recipe: Recipe, teacher: Denoiser) -> Networks:
        made = networks(recipe, teacher)
        if prepare is not None:
            prepare(made.student)
        return made

    def train() -> Score:
        habits = Habits(sample_every=recipe.duration, save_every=max(recipe.duration // 2, 1), sample_steps=steps)
        options: dict[str, Any] = {"origin": origin, "habits": habits, "networks": make, "watch": follow}
        student = finetune(teacher, measurement.images, recipe, out=directory, **options).denoiser
        score = evaluate(measurement, student.to(measurement.device), repetition, steps)
        for spent in SPENT:
            (directory / spent).unlink(missing_ok=True)
        return score

    check_fit(teacher, measurement.images)
    settings = {**measurement.settings(), **origin, "recipe": to_dict(recipe), "steps": steps}
    return remember(directory / "result.json", settings, train)


def follow(moments: Iterable[Moment], *_: Any) -> None:
    """Follow a run to its end without showing it: the script shows how many runs are done."""
    deque(moments, maxlen=0)


def trial_directory(measurement: Measurement, name: str, repetition: int) -> Path:
    """Return where a fine-tuning is kept."""
    return measurement.directory / f"{name}-{repetition}"


def kids(scores: Sequence[Score]) -> list[float]:
    """Return the KID of every repetition."""
    return [float(score["kid"]) for score in scores]


def kid(scores: Sequence[Score]) -> float:
    """Return the mean KID."""
    return spread(kids(scores))[0]


def cell(scores: Sequence[Score], what: str = "kid") -> str:
    """Return mean and standard deviation over repetitions, as they are shown."""
    return show_mean(*spread([score[what] for score in scores]))


def find_overlap(options: Options, judged_by: Sequence[str]) -> list[str]:
    """Return a sentence for each network of the discriminator that is related to the one that measures quality."""
    return list(overlap(options.features, tuple(judged_by)))


def write(
    options: Options, study: str, numbers: dict[str, Any], tables: Sequence[Table], figures: dict[str, Any]
) -> None:
    """Print the tables, and write STUDY.json and STUDY-FIGURE.png."""
    record = plain({"d2o": d2o.__version__, "options": asdict(options), **numbers})
    files = {f"{study}.json": (json.dumps(record, indent=1) + "\n").encode()}
    files |= {f"{study}-{name}.png": pages.encode_figure(figure) for name, figure in figures.items()}
    for name, content in files.items():
        with atomic(Path(options.out) / name) as temporary:
            temporary.write_bytes(content)
    print("\n\n".join(table.markdown() for table in tables))


def main(record: type[Any], study: Callable[[Any], None], description: str | None) -> None:
    """Run a script; bad input is one sentence and exit code 2."""
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff)
    options = tyro.cli(record, description=description, config=config)
    try:
        check_folder(options.out)
        study(options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped. The same command again continues.", file=sys.stderr)
        sys.exit(130)
