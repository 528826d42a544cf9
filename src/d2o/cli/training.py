"""What pretrain and finetune have in common: run options, and following a run to its end."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.files import checked_folder
from d2o.training.loop import group
from d2o.training.memory import at_once, check_memory, modules
from d2o.training.networks import check_fit, networks, share
from d2o.training.recipe import Recipe
from d2o.training.run import Habits, judge_by, run
from d2o.training.speed import compile_student, emulation, fastest_precision, try_compiled
from d2o.training.tracking import check_service, tracked

from .main import memory_is_used_up
from .options import Set, quiet, tell
from .progress import counted, say, watch


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of every training run. What is left out is the recipe's."""

    out: str
    """Directory of the run. The same command again continues it."""
    images: int | None = None
    """Images to train on."""
    batch: int | None = None
    """Images an iteration, over all processes."""
    micro_batch: int | None = None
    """Images that pass through the networks at once; gradients are accumulated."""
    seed: int | None = None
    """Seed of everything random."""
    learning_rate: float | None = None
    """Of the trained denoiser."""
    precision: Literal["float32", "bfloat16", "auto"] | None = None
    """Of the denoiser's network; auto: the one that trains faster here, by trying."""
    set: Set = ()
    """Change any other key of the recipe, as often as wanted: --set objectives.0.r1=1e-4."""
    compile: bool = False
    """Compile the denoiser's network first, which takes a minute or two: for GPUs and long runs."""
    save_every: int | None = None
    """Write a checkpoint every so many images (default: ten times a run, and every five minutes)."""
    sample_every: int | None = None
    """Write a sample grid every so many images (default: ten times a run)."""
    evaluate_every: int | None = None
    """Compare the averaged weights with the data every so many images, and keep the best."""
    evaluate_images: int = 1000
    """Images on each side of an evaluation."""
    features: str = "lite2"
    """Feature space of the evaluations."""
    track: Literal["tensorboard", "trackio", "wandb"] | None = None
    """Show the log elsewhere, too; metrics.jsonl stays what counts."""
    json: bool = False
    """Print JSON when the run has ended."""

    def check_out(self) -> None:
        """Raise a ValueError where the run's directory cannot be written to; one of many processes tries."""
        if not quiet():
            checked_folder(self.out)

    def changes(self) -> dict[str, Any]:
        """Return the recipe's keys that were given as options."""
        return {
            "duration": self.images,
            "batch_size": self.batch,
            "micro_batch_size": self.micro_batch,
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "precision": None if self.precision == "auto" else self.precision,
        }


def follow(
    options: RunOptions,
    recipe: Recipe,
    teacher: Denoiser,
    images: Images,
    origin: dict[str, Any],
    *,
    title: str,
    steps: int,
) -> None:
    """Train in the run's directory, showing how it goes; `steps` is the number of sampling steps of grids and KID."""
    if options.track is not None:
        check_service(options.track)
    check_fit(teacher, images)
    accelerator = group()
    if options.precision == "auto":
        recipe = replace(recipe, precision=fastest_precision(teacher, options.out, accelerator.device))
        say(f"{title}: trains in {recipe.precision}, which is the faster here or the run's own")
    elif slow := emulation(recipe.precision, accelerator.device):
        say(f"{title}: {slow}")
    made = networks(recipe, teacher)
    say(f"{title}: {share(made)}, {len(images):,} images of {images.name}")
    judge = None
    if options.evaluate_every is not None:
        judge = judge_by(images, recipe, options.features, options.evaluate_images, steps, counted)
    habits = Habits(
        save_every=options.save_every,
        sample_every=options.sample_every,
        evaluate_every=options.evaluate_every,
        sample_steps=steps,
    )
    for network in modules(made):
        network.to(accelerator.device)
    check_memory(recipe, made, accelerator.num_processes, len(images))
    size = at_once(recipe, accelerator.num_processes)
    if options.compile and (obstacle := compile_student(made) or try_compiled(made.student, size)):
        say(obstacle)
    moments = run(options.out, recipe, made, images, origin=origin, habits=habits, judge=judge, accelerator=accelerator)
    if options.track is not None and not quiet():
        moments = tracked(moments, Path(options.out), options.track)
    try:
        last = watch(moments, recipe.duration, title)
    except RuntimeError as error:
        if not memory_is_used_up(error):
            raise
        raise ValueError(
            f"The memory is used up: try --micro-batch {max(size // 2, 1)}; the batch stays {recipe.batch_size}, its "
            "gradients are accumulated."
        ) from error
    if last is None:
        say(f"{options.out} is already finished.")
    if options.json:
        share_of = share(made)
        record = {"directory": options.out, "images": recipe.duration, "evaluation": last and last.evaluation}
        tell({**record, "moved_parameters": share_of.total - share_of.frozen, "parameters": share_of.total}, "", True)
