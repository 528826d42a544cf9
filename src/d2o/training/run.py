"""A run on disk: its directory contains the recipe, the log, sample grids and a checkpoint from which it continues.

recipe.json              what was asked for; another run is refused in the same directory, but for its duration
metrics.jsonl            one line a moment: losses, rates, evaluations
samples/00012800.png     the averaged student on the same seeds
checkpoint.safetensors   everything a resumed run needs, in one file, but for what is frozen where its base has that
previous.safetensors     the checkpoint before it, which is used if that one is damaged
best.safetensors         the averaged student with the lowest KID so far
ema, student.safetensors at the end: the averaged student, and the student itself
"""

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from d2o.checkpoints import native
from d2o.data.datasets import Images
from d2o.data.files import to_uint8, write_images
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate
from d2o.errors import Diverged
from d2o.files import append
from d2o.metrics.counting import Counted, unshown
from d2o.objectives.objective import Networks

from .base import check_base
from .leaving import between_calls
from .loop import begin, group, train
from .recipe import Recipe
from .run_directory import CHECKPOINT, claim, find_state, is_sound, replace_checkpoint, truncate_log
from .sharding import gather, unshard
from .state import Progress, list_frozen

FEATURES_ON_DISK = 8 << 30
"""Bytes that features of real images may take in the directory, beyond those in memory."""
SAVE_SECONDS = 300
"""A checkpoint is written at least this often."""
STOPPING = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__]
RESULTS, BEST = ("student.safetensors", "ema.safetensors"), "best.safetensors"

Evaluate = Callable[[Denoiser], dict[str, Any]]
"""Compares a denoiser with the data: numbers for the log, `kid` among them."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop (Ctrl-C, SIGTERM or SIGHUP), has saved itself and can be continued."""

    def __str__(self) -> str:
        return "Stopped and saved. The same command continues the run."


@dataclass(frozen=True)
class Habits:
    """What a run does besides its result, and how often; none of it changes the result.

    Periods are in images. By default the log has about 200 lines, there are ten checkpoints (and one every five
    minutes) and ten sample grids, and nothing is evaluated. Grids and evaluations sample in `sample_steps` steps.
    `track` sends the log to tensorboard, trackio or wandb, too; `compile` compiles the student's network first. With
    `shard` the processes of a run hold parts of the denoisers in place of copies. It
    computes on the `device`, a name of `d2o.devices`.
    """

    log_every: int | None = None
    save_every: int | None = None
    sample_every: int | None = None
    sample_seeds: Sequence[int] = range(64)
    sample_steps: int | None = None
    evaluate_every: int | None = None
    evaluate_images: int = 1000
    evaluate_features: str = "lite2"
    track: str | None = None
    compile: bool = False
    device: str = "auto"
    shard: bool = False

    def __post_init__(self) -> None:
        if self.compile and self.shard:
            raise ValueError("--shard and --compile do not go together: leave one of them out.")


@dataclass(frozen=True, repr=False)
class Moment:
    """What a caller sees after each iteration; `logged` says whether the log has gained a line."""

    progress: Progress
    images_per_second: float
    evaluation: dict[str, Any] | None
    logged: bool

    def __repr__(self) -> str:
        kid = f", KID {self.evaluation['kid']:.3f}" if self.evaluation is not None else ""
        return f"{self.progress}{kid}, {self.images_per_second:,.0f} images/s"

    def status(self, duration: int) -> str:
        """Return in one line where the run stands."""
        progress = self.progress
        left = max(duration - progress.images, 0) / max(self.images_per_second, 1e-9)
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in progress.losses.items() if name != "r1")
        kid = f", KID {self.evaluation['kid']:.3f}" if self.evaluation is not None else ""
        skipped = f", {progress.skipped} steps skipped (gradients not finite)" if progress.skipped else ""
        return (
            f"{min(progress.images, duration):,} of {duration:,} images, {self.images_per_second:,.0f}/s, "
            f"{timedelta(seconds=round(left))} left, loss {losses}{kid}{skipped}"
        )


def run(
    directory: str | Path,
    recipe: Recipe,
    networks: Networks,
    images: Images,
    *,
    origin: dict[str, Any] | None = None,
    habits: Habits | None = None,
    evaluate: Evaluate | None = None,
    accelerator: Accelerator | None = None,
    accept_data: bool = False,
    base: Mapping[str, Any] | None = None,
    counted: Counted = unshown,
) -> Iterator[Moment]:
    """Train in a directory, or continue the run that is there; yield after every iteration.

    `origin` says in JSON where weights and data came from and is compared when continuing, and so are the images unless
    `accept_data`; the lowest `kid` of `evaluate` chooses best.safetensors. `base` (see `base.find_base`) says where all
    that is frozen is found again: then checkpoints do not contain it. What passes over the images before the first
    iteration goes through `counted`. Raises Interrupted after Ctrl-C (a grid or evaluation under way is left out),
    ValueError for a directory with another run or a running one, or for another base, Diverged when NaNs appear.
    """
    habits, directory = habits or Habits(), Path(directory)
    accelerator = accelerator or group(habits.device)
    main, world = accelerator.is_main_process, accelerator.num_processes
    checkpoint, log = directory / CHECKPOINT, directory / "metrics.jsonl"
    claimed = claim(directory, recipe, origin or {}, images, accept_data) if main else nullcontext()
    with claimed, stoppable(accelerator) as should_stop:
        resume = find_state(directory) if main else None  # only then is the newest checkpoint sound for all others
        accelerator.wait_for_everyone()
        resume = resume or find_state(directory)
        start, history = 0, dict[str, Any](seconds=0.0, best=None, evaluation=None)  # `best` is the lowest KID
        if resume is not None:
            check_base(directory, resume, base)
            start, history = resume[1]["images"], {name: resume[1][name] for name in history}
        seconds = history["seconds"]
        if main:
            truncate_log(log, start)
        caches = () if networks.discriminator is None else networks.discriminator.caches
        for cache in caches:
            cache.use_disk(directory, FEATURES_ON_DISK // world // len(caches))
        share: Any = {"seed": recipe.seed, "rank": accelerator.process_index, "world": world}
        batches = images.batches(recipe.batch_size, start=start, **share)

        def first_batches() -> Iterator[Any]:
            for batch in images.batches(recipe.batch_size, **share):
                if should_stop():
                    raise Interrupted
                yield batch

        if resume is None:
            begin(recipe, networks, first_batches, len(images), accelerator=accelerator, counted=counted)
        began = saved = time.monotonic()
        progress, losses = None, []

        def due(every: int | None, times: int, last: int | None = None) -> bool:  # at multiples of `every`, and the end
            assert progress is not None
            every = every or max(recipe.duration // times, 1)
            before = progress.images - recipe.batch_size if last is None else last
            return before // every < progress.images // every or progress.images >= recipe.duration

        def save() -> None:
            if progress is None or progress.failing:  # the last good checkpoint stays
                return
            tensors, numbers = progress.state()
            if base is not None:
                numbers, left = {**numbers, "base": base}, list_frozen(progress.networks.student)
                tensors = {k: t for k, t in tensors.items() if k.removeprefix("student.") not in left}
            if main:
                if broken := next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None):
                    raise Diverged(f"The numbers of {broken} are not finite at image {progress.images:,}")
                content = {**native.describe(progress.ema), "content": "run", **numbers, **history}
                replace_checkpoint(directory, tensors, content)

        def show() -> dict[str, Any]:  # draws and evaluates the average where that is due: a line of the log
            assert progress is not None
            last = (history["evaluation"] or {"images": 0})["images"] if world == 1 else None  # makes up for one left
            drawn, evaluated = due(habits.sample_every, 10), due(habits.evaluate_every, 1, last)
            average = unshard(progress.ema) if drawn or evaluated else progress.ema
            with between_calls(average, should_stop if world == 1 else None):
                if main and drawn:
                    draw_samples(directory, average, progress.images, habits)
                if main and evaluated and evaluate is not None:
                    evaluation = history["evaluation"] = {"images": progress.images, **evaluate(average)}
                    if history["best"] is None or evaluation["kid"] < history["best"]:
                        history["best"] = evaluation["kid"]
                        native.save(directory / BEST, average)
                    return {"images": progress.images, "evaluation": evaluation}
            return {}

        options: Any = {"resume": resume, "accelerator": accelerator, "sharded": habits.shard, "stop": should_stop}
        try:
            for progress in train(recipe, networks, batches, **options):
                losses.append(progress.losses)
                history["seconds"] = seconds + time.monotonic() - began
                line: dict[str, Any] = {}
                if due(habits.log_every, 200):
                    line = {
                        "images": progress.images,
                        "iteration": progress.iteration,
                        "seconds": round(history["seconds"], 2),
                        "loss": mean(losses),
                        "learning_rate": progress.learning_rate,
                        "skipped": progress.skipped,
                    }
                    losses.clear()
                line |= show()
                if main and line:
                    append(log, json.dumps(line) + "\n")
                rate = (progress.images - start) / max(time.monotonic() - began, 1e-9)
                yield Moment(progress, rate, history["evaluation"], logged=bool(line))
                stopping = should_stop()
                late = ask_all(time.monotonic() - saved > SAVE_SECONDS, accelerator)
                if stopping or late or due(habits.save_every, 10):
                    save()
                    saved = time.monotonic()
                if stopping:
                    accelerator.wait_for_everyone()
                    raise Interrupted
            if (start if progress is None else progress.images) < recipe.duration:  # left within an iteration
                save()
                raise Interrupted
        except Diverged as error:
            good = f"the last good checkpoint, {checkpoint}" if checkpoint.exists() else "its beginning"
            raise Diverged(error.fact, good) from error
        except (ValueError, OSError):  # of the data: the networks are as they were after the last iteration
            with suppress(ValueError, OSError):
                if not habits.shard:  # which takes all processes
                    save()
            raise
        if main and progress is None:
            logging.getLogger("d2o").info("%s is already finished.", directory)
        # A finished run has no results if it was killed between its last checkpoint and its end.
        lacking = progress is not None or not all(is_sound(directory / name) for name in RESULTS)
        for name, denoiser in zip(RESULTS, (networks.student, networks.ema), strict=True):
            tensors = gather(denoiser.state_dict())
            if main and lacking:
                native.write(directory / name, tensors, native.describe(denoiser))
    accelerator.wait_for_everyone()


def mean(losses: list[dict[str, float]]) -> dict[str, float]:
    """Average dictionaries of numbers, each name over the dictionaries that have it."""
    names = dict.fromkeys(name for row in losses for name in row)
    return {name: sum(values := [row[name] for row in losses if name in row]) / len(values) for name in names}


def draw_samples(directory: Path, average: Denoiser, images: int, habits: Habits) -> None:
    batches = list(generate(average, habits.sample_seeds, steps=habits.sample_steps or 1))
    write_images(directory / "samples" / f"{images:08d}.png", [to_uint8(torch.cat(batches))])


def ask_all(answer: bool, accelerator: Accelerator) -> bool:
    """Return whether any process says yes, since all must do the same."""
    if accelerator.num_processes == 1:
        return answer
    answers: Any = accelerator.reduce(torch.tensor(float(answer), device=accelerator.device))
    return bool(answers > 0)


@contextmanager
def stoppable(accelerator: Accelerator) -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into a question that the loop asks between micro-batches and iterations.

    A second Ctrl-C acts at once; other signals may come twice (torchrun passes its own on), and nohup's are ignored.
    """
    asked = False

    def ask(number: int, _: Any) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    try:
        numbers = [one for one in STOPPING if one == signal.SIGINT or signal.getsignal(one) != signal.SIG_IGN]
        before = {number: signal.signal(number, ask) for number in numbers}
    except ValueError:  # not in the main thread: the caller's business
        before = {}
    try:
        yield lambda: ask_all(asked, accelerator)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
