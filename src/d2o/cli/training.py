"""What `d2o pretrain`, `d2o finetune` and `d2o estimate` have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from d2o.features.embedding import find_space
from d2o.files import check_folder
from d2o.training.fit import Result
from d2o.training.recipe import Recipe, Stages
from d2o.training.run import Habits

from .options import DeviceOptions, Set, recipe_from, tell
from .progress import counted, quiet, watch


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(DeviceOptions):
    """Options that override a recipe's settings."""

    images: int | None = None
    """Images to train on, in all stages together."""
    batch: int | None = None
    """Images per iteration, over all processes."""
    micro_batch: int | None = None
    """Images processed at once; gradients are accumulated."""
    precision: Literal["float32", "bfloat16", "auto"] | None = None
    """Precision of the denoiser's network; auto: try both, and take the one that trains faster here."""
    set: Set = ()
    """Change any other key of the recipe, may be repeated: --set objectives.0.r1=1e-4; of the first stage
    only: --set stages.0.learning_rate=1e-3."""
    json: bool = False
    """Print the result as JSON."""

    def open_recipe(self, name: str, changes: Mapping[str, Any] | None = None) -> Recipe | Stages:
        """Return a recipe with the options that were given on top."""
        given = {
            "duration": self.images,
            "batch_size": self.batch,
            "micro_batch_size": self.micro_batch,
            "precision": self.precision,
        }
        return recipe_from(name, {**given, **(changes or {})}, self.set)


@dataclass(frozen=True, kw_only=True)
class RunOptions(RecipeOptions):
    """Options of every training run."""

    out: str
    """Directory of the run. The same command resumes it."""
    seed: int | None = None
    """Seed of everything random."""
    learning_rate: float | None = None
    """Learning rate of the trained denoiser."""
    compile: bool = False
    """Compile the denoiser's network first, which takes a minute or two: for GPUs and long runs."""
    shard: bool = False
    """Split the denoisers over the processes of torchrun, instead of a copy in each: for large models."""
    save_every: int | None = None
    """Images between checkpoints (default: ten per run, and one every five minutes)."""
    sample_every: int | None = None
    """Images between sample grids (default: ten per run)."""
    evaluate_every: int | None = None
    """Images between evaluations, which compare the averaged weights with the data and keep the best."""
    evaluate_images: int = 1000
    """Images on each side of an evaluation."""
    features: str = "lite2"
    """Feature space of the evaluations."""
    track: Literal["tensorboard", "trackio", "wandb"] | None = None
    """Also send the log to a tracker; metrics.jsonl stays the authoritative log."""
    accept_data: bool = False
    """Resume a run although its images have changed, for example after a damaged one was removed."""

    def check_out(self) -> None:
        """Raise a ValueError where the run's directory cannot be written to, or there is no such feature space."""
        if not quiet():  # one of many processes tries
            check_folder(self.out)
        self.find_device()
        if self.evaluate_every:
            find_space(self.features, "auto")

    def open_recipe(self, name: str, changes: Mapping[str, Any] | None = None) -> Recipe | Stages:
        """Return a recipe with the options that were given on top."""
        own = {"seed": self.seed, "learning_rate": self.learning_rate}
        return super().open_recipe(name, {**own, **(changes or {})})

    def run(self, function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """Call `finetune` or `pretrain` with these options, show progress, and print and return what it has come to."""
        names = (
            "save_every",
            "sample_every",
            "evaluate_every",
            "evaluate_images",
            "track",
            "compile",
            "shard",
            "device",
        )
        habits = Habits(**{name: getattr(self, name) for name in (*names, "device")}, evaluate_features=self.features)
        named |= {"out": self.out, "habits": habits, "precision": self.precision}
        named |= {"accept_data": self.accept_data}
        result = function(*arguments, **named, watch=watch, counted=counted)
        if self.json:
            record = {"directory": str(result.directory), "images": result.images, "evaluation": result.evaluation}
            share = result.share
            tell({**record, "moved_parameters": share.total - share.frozen, "parameters": share.total}, "", True)
        return result
