"""A run on disk: its directory holds the recipe, the log, sample grids and a checkpoint from which it continues.

recipe.json              what was asked for; another run is refused in the same directory
metrics.jsonl            one line a moment: losses, rates, evaluations
samples/00012800.png     the averaged student on the same seeds
checkpoint.safetensors   everything a resumed run needs, in one file
best.safetensors         the averaged student with the lowest KID so far
ema.safetensors          at the end: the averaged student
student.safetensors      at the end: the student itself
"""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from d2o.checkpoints import native
from d2o.data.datasets import Images
from d2o.data.files import to_uint8, write_images
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate
from d2o.metrics.counting import Counted, unshown
from d2o.metrics.evaluation import Evaluation, Judge
from d2o.objectives.objective import Networks

from .loop import Diverged, Progress, group, train
from .recipe import Recipe
from .run_directory import claim, forget_after

FEATURES_ON_DISK = 8 << 30  # bytes that features of real images may take in the directory, beyond those in memory
SAVE_SECONDS = 300
"""A checkpoint is written at least this often."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop (Ctrl-C or SIGTERM), has saved itself and can be continued."""

    def __str__(self) -> str:
        return "Stopped and saved. The same command again continues where it stopped."


@dataclass(frozen=True)
class Habits:
    """What a run writes besides its result, and how often, in images; None: about ten times (log: two hundred)."""

    log_every: int | None = None
    save_every: int | None = None
    sample_every: int | None = None
    evaluate_every: int | None = None
    sample_seeds: tuple[int, ...] = tuple(range(64))
    sample_steps: int = 1


@dataclass
class Moment:
    """What a caller sees after each iteration: the loop's progress, images a second, and the newest evaluation."""

    progress: Progress
    images_per_second: float
    evaluation: dict[str, Any] | None


def run(
    directory: str | Path,
    recipe: Recipe,
    networks: Networks,
    images: Images,
    *,
    origin: dict[str, Any] | None = None,
    habits: Habits | None = None,
    judge: Callable[[Denoiser], dict[str, Any]] | None = None,
    accelerator: Accelerator | None = None,
) -> Iterator[Moment]:
    """Train in a directory, or continue what stands there; yield after every iteration.

    `origin` says in JSON where weights and data came from and is compared when continuing; `judge` evaluates a
    denoiser (its `kid` chooses best.safetensors). Raises Interrupted after Ctrl-C, ValueError for a directory that
    holds another run or a running one, Diverged when the gradients are not finite.
    """
    accelerator = accelerator or group()
    main = accelerator.is_main_process
    habits = habits or Habits()
    directory = Path(directory)
    claimed = claim(directory, recipe, origin or {}, images) if main else nullcontext()
    accelerator.wait_for_everyone()
    checkpoint = directory / "checkpoint.safetensors"
    resume, seconds, best, evaluation = None, 0.0, float("inf"), None
    if checkpoint.exists():
        tensors, spec = native.read(checkpoint)
        resume, seconds, best, evaluation = (tensors, spec), spec["seconds"], spec["best"], spec["evaluation"]
        best = float("inf") if best is None else best
    start = resume[1]["images"] if resume else 0
    if main:
        forget_after(directory / "metrics.jsonl", start)
    caches = () if networks.discriminator is None else networks.discriminator.caches
    for cache in caches:
        cache.use_disk(directory, FEATURES_ON_DISK // accelerator.num_processes // len(caches))
    batches = images.batches(
        recipe.batch_size,
        seed=recipe.seed,
        start=start,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    every = {
        "log": habits.log_every or max(recipe.duration // 200, 1),
        "save": habits.save_every or max(recipe.duration // 10, 1),
        "sample": habits.sample_every or max(recipe.duration // 10, 1),
        "evaluate": habits.evaluate_every or recipe.duration,
    }
    began = saved = time.monotonic()
    progress = None
    losses: list[dict[str, float]] = []

    def save() -> None:
        if not main or progress is None or progress.failing:  # the last good checkpoint stays
            return
        tensors, numbers = progress.state()
        spec = {
            **native.describe(progress.ema),
            "content": "run",
            **numbers,
            "seconds": seconds + time.monotonic() - began,
            "best": None if best == float("inf") else best,
            "evaluation": evaluation,
        }
        native.write(checkpoint, {k: v.detach().contiguous().cpu() for k, v in tensors.items()}, spec)

    def due(what: str) -> bool:
        assert progress is not None
        before, after = progress.images - recipe.batch_size, progress.images
        return before // every[what] < after // every[what] or after >= recipe.duration

    with claimed, stoppable(accelerator) as stop_asked:
        try:
            for progress in train(recipe, networks, batches, resume=resume, accelerator=accelerator):
                losses.append(progress.losses)
                elapsed = seconds + time.monotonic() - began
                line: dict[str, Any] = {}
                if due("log"):
                    line = {
                        "images": progress.images,
                        "iteration": progress.iteration,
                        "seconds": round(elapsed, 2),
                        "loss": mean(losses),
                        "learning_rate": progress.learning_rate,
                        "skipped": progress.skipped,
                    }
                    losses = []
                if main and judge is not None and due("evaluate"):
                    evaluation = {"images": progress.images, **judge(progress.ema)}
                    line = {"images": progress.images, **line, "evaluation": evaluation}
                    if evaluation["kid"] < best:
                        best = evaluation["kid"]
                        native.save(directory / "best.safetensors", progress.ema)
                if main and line:
                    with (directory / "metrics.jsonl").open("a") as file:
                        file.write(json.dumps(line) + "\n")
                if main and due("sample"):
                    draw_samples(directory, progress, habits)
                rate = (progress.images - start) / max(time.monotonic() - began, 1e-9)
                yield Moment(progress, rate, evaluation)
                stopping = stop_asked()
                if stopping or due("save") or time.monotonic() - saved > SAVE_SECONDS:
                    save()
                    saved = time.monotonic()
                if stopping:
                    accelerator.wait_for_everyone()
                    raise Interrupted
        except Diverged as error:
            good = f"The last good checkpoint is {checkpoint}" if checkpoint.exists() else "Nothing was saved yet"
            raise Diverged(f"{error} {good}.") from error
        except (ValueError, OSError):  # the data: the networks stand as they stood after the last iteration
            save()
            raise
    if main and progress is not None:
        native.save(directory / "student.safetensors", networks.student)
        native.save(directory / "ema.safetensors", networks.ema)
    elif main and not (directory / "ema.safetensors").exists() and resume is not None:
        finish(directory, networks, resume[0])
    accelerator.wait_for_everyone()


def judge_by(
    images: Images,
    recipe: Recipe,
    features: str = "lite2",
    count: int = 1000,
    steps: int = 1,
    counted: Counted = unshown,
) -> Callable[[Denoiser], dict[str, Any]]:
    """Return a judge of denoisers for `run`: it compares `count` of their images with as many real ones."""
    judge = Judge(
        images, features=features, images=min(count, len(images)), judged_by=recipe.judged_by, counted=counted
    )
    return lambda denoiser: summary(judge(denoiser, steps=steps))


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Return the numbers of an evaluation that a log line holds."""
    distances, diversity = evaluation.distances, evaluation.diversity
    return {
        "features": evaluation.space,
        "images_compared": distances.images,
        "kid": distances.kid,
        "frechet": distances.frechet,
        "precision": distances.precision,
        "recall": distances.recall,
        "pixel_deviation": diversity.pixel_deviation,
        "pixel_deviation_within": diversity.pixel_deviation_within,
    }


def mean(losses: list[dict[str, float]]) -> dict[str, float]:
    """Average dictionaries of numbers, each name over the dictionaries that have it."""
    names = dict.fromkeys(name for row in losses for name in row)
    return {
        name: sum(row[name] for row in losses if name in row) / sum(name in row for row in losses) for name in names
    }


def draw_samples(directory: Path, progress: Progress, habits: Habits) -> None:
    """Write a grid of the averaged student's images, from the same seeds every time."""
    batches = list(generate(progress.ema, habits.sample_seeds, steps=habits.sample_steps))
    (directory / "samples").mkdir(exist_ok=True)
    pixels = to_uint8(torch.cat(batches))
    write_images(directory / "samples" / f"{progress.images:08d}.png", [pixels])


def finish(directory: Path, networks: Networks, tensors: dict[str, Tensor]) -> None:
    """Write the results of a run that was killed between its last checkpoint and its end."""
    for name, network in (("student", networks.student), ("ema", networks.ema)):
        state = {k.removeprefix(name + "."): v for k, v in tensors.items() if k.startswith(name + ".")}
        network.load_state_dict(state)
        native.save(directory / f"{name}.safetensors", network)


@contextmanager
def stoppable(accelerator: Accelerator) -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a question that the loop asks between iterations; a second Ctrl-C acts at once."""
    asked = False

    def ask(*_: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def anyone() -> bool:  # all processes must stop after the same iteration
        if accelerator.num_processes == 1:
            return asked
        flags = accelerator.reduce(torch.tensor(float(asked), device=accelerator.device))
        assert isinstance(flags, Tensor)
        return bool(flags > 0)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: the caller's business
        before = {}
    try:
        yield anyone
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
