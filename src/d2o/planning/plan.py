"""Which settings for these images, in these hours, on this machine: rows of the table, and short trials of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from d2o.data.datasets import Images
from d2o.devices import find_device
from d2o.diffusion.denoiser import Denoiser
from d2o.encoders.codec import makes_latents
from d2o.training.fit import new_teacher
from d2o.training.memory import free_memory
from d2o.training.networks import check_fit
from d2o.training.speed import warn_about_emulation

from .estimate import GIB, Estimate, estimate
from .gpu_memory import measure_memory
from .presets import randomise_weights
from .table import PUBLISHED_AT, UNKNOWN, Look, Row, Training, rows_for, tune

FEWEST, FEWEST_WITH_MODEL = 0.5, 0.1
"""The share of a row's images below which a smaller size is better, as weak teachers make weak students; of a student
of a given model, below which it has hardly begun. Assumptions."""
PASSES = 400
"""Most passes of pre-training over the data, an assumption: by then it knows them by heart."""
FEW = 5_000
"""Images below which that is said."""
RESERVE = 0.1
"""The share of the hours that is left for grids, checkpoints and starting."""
SECONDS = 6.0
"""How long each trial may take, but for an iteration."""


class Step(NamedTuple):
    """A command of a plan, and what a trial says of it: None where memory did not suffice for one."""

    training: Training
    found: Estimate | None
    images_per_second: float
    memory_gib: float

    @property
    def hours(self) -> float | None:
        return None if self.found is None else self.training.images / self.images_per_second / 3600


@dataclass(frozen=True)
class Plan:
    """The steps of a row, two or with a model one, each of `processes`, for images as the `preparation` makes them.

    They are a `share` of what the row advises. Each of the larger sizes that are too `slow` needs at least so many
    hours. `look` is what the images were before, None where they had been encoded.
    """

    row: Row
    steps: tuple[Step, ...]
    images: Images
    preparation: Mapping[str, Any]
    processes: int
    device: str
    share: float
    slow: tuple[tuple[int, float], ...]
    look: Look | None

    @property
    def hours(self) -> float | None:
        return add_hours(self.steps)

    @property
    def memory_gib(self) -> float:
        """GiB beside Python's own, of the step that needs more."""
        return max(step.memory_gib for step in self.steps)

    @property
    def quality(self) -> str:
        less = f" This plan has {self.share:.0%} of the images that this takes: expect less." if self.share < 1 else ""
        return self.row.quality + less

    @property
    def reasons(self) -> list[str]:
        """Say why it is so, a sentence each."""
        first, count, (_, side, _) = self.steps[0], len(self.images), self.images.shape
        rates = [f"{step.training.recipe} {step.images_per_second:,.3g}" for step in self.steps if step.found]
        own, weights = self.look.side if self.look else side, first.found.parameters / count if first.found else 0
        published = " and ".join(f"{name} ({size}x{size})" for size, name in PUBLISHED_AT.items())
        classes = f"{self.images.num_classes} classes" if self.images.num_classes else ""
        told = "captions" if self.images.captioned and (self.look is None or self.look.told) else classes
        few = (
            f"{count:,} images are few, {weights:,.3g} weights for each: teacher and student may memorise them, "
            "which no distance shows. Against that, most weights stay frozen; d2o pretrain --augment shows the images "
            "shifted and mirrored (not for digits or letters); d2o finetune --set data=teacher takes the teacher's own."
        )
        rows = (
            (rates, f"Images a second on {self.device}, while other programs ran: {', '.join(rates)}."),
            (not rates, f"Not tried: it takes {first.memory_gib:.1f} GiB, which are not free on {self.device}."),
            (first.training.precision, "This processor only emulates bfloat16, so the networks train in float32."),
            (self.processes > 1, f"{self.processes} GPUs are assumed to be that many times as fast as the one tried."),
            *((True, f"{size}x{size} pixels would need {needed:.2g} hours at least.") for size, needed in self.slow),
            (own > side, f"The images' shorter side is {own}, of which {side} is left: time grows with the pixels."),
            (own >= min(PUBLISHED_AT), f"For large images start from a published model with --from: {published}."),
            (self.share < 1, f"The hours, less a tenth for checkpoints, fit {self.share:.0%} of the usual images."),
            (told, f"The networks are conditioned on the {told}."),
            (count < FEW, few),
            (count > first.training.images, f"{first.training.images:,} images are less than one pass over the data."),
        )
        return [sentence for holds, sentence in rows if holds]


def add_hours(steps: Sequence[Step]) -> float | None:
    """Return the hours of all steps; None where one was not timed."""
    hours = [step.hours for step in steps if step.hours is not None]
    return sum(hours) if len(hours) == len(steps) else None


def plan(
    look: Look | None,
    open_prepared: Callable[[Mapping[str, Any]], Images],
    hours: float,
    device: str = "auto",
    model: Denoiser | None = None,
    resolution: int | None = None,
) -> Plan:
    """Return what to do with the largest size of which enough images fit into the hours, by short trials.

    `look` is what `look_at` returned, and `open_prepared` opens the images with options of `open_images`. With a model,
    or a `resolution`, only that size is tried. Raises ValueError for hours that suffice for nothing, and as `check_fit`
    does.
    """
    if look is None and model is None:
        raise ValueError("These images have been encoded for a model: name it with --from MODEL.")
    if not 0 < hours < 1e6:
        raise ValueError(f"--hours {hours:g} is not possible: give a number above 0, such as --hours 2.")
    here = find_device(device)
    kind = "cpu" if here.type == "cpu" else "gpu"
    processes = torch.cuda.device_count() if here.type == "cuda" and device in ("auto", "cuda") else 1
    fixed = model.pixel_shape[1] if model else resolution
    told = look.told if look else ""
    if model:
        told = "" if model.reader is None else told or "captions"
    look = look and look._replace(told=told)
    rows = rows_for(told or kind, fixed or (look.side if look else 0))
    rows = [(fixed, rows[0][1])] if fixed else rows
    if model and makes_latents(model):
        rows = [(side, row._replace(quality=UNKNOWN)) for side, row in rows]
    made_of = [look.prepare(side, model.pixel_shape[0] if model else None) if look else {} for side, _ in rows]
    images = open_prepared(made_of[0])
    if model:
        images = images.for_model(model.num_classes, model.class_names, text=model.reader is not None)
        model = images.attach(model)
        check_fit(model, images)
    fewest, budget = FEWEST_WITH_MODEL if model else FEWEST, (1 - RESERVE) * hours
    slow: list[tuple[int, float]] = []
    for (side, row), preparation in zip(rows, made_of, strict=True):
        images = images if model else replace(images, shape=(images.shape[0], side, side))
        patience = budget / fewest if side != rows[-1][0] else math.inf
        steps = try_row(row, images, device, processes, model, patience)
        total = add_hours(steps)
        if total is None or fewest * total <= budget:
            share = 1.0 if total is None else min(1.0, budget / total)
            steps = tuple(shorten(step, share) for step in steps)
            return Plan(row, steps, images, preparation, processes, str(here), share, tuple(slow), look)
        slow.append((side, fewest * total / (1 - RESERVE)))
    side, needed = slow[-1]
    least = f"{math.ceil(1000 * needed) / 1000:g}"
    raise ValueError(
        f"--hours {hours:g} is too short: images of {side}x{side} need {least} hours at least on {here}; give --hours "
        f"{least} or more, or use a faster machine."
    )


def try_row(
    row: Row, images: Images, device: str, processes: int, model: Denoiser | None, patience: float
) -> list[Step]:
    """Return the steps of a row, or the first one alone where that takes more hours than there is patience."""
    if model:
        return [try_out(tune(model, row.finetune), model, images, device, processes)]
    pretrain = row.pretrain._replace(images=min(row.pretrain.images, PASSES * len(images)))
    start = new_teacher(pretrain.open(), images)
    steps = [try_out(pretrain, start, images, device, processes)]
    if (steps[0].hours or 0) <= patience:
        steps.append(try_out(tune(start, row.finetune), start, images, device, processes))
    return steps


def try_out(training: Training, start: Denoiser, images: Images, device: str, processes: int) -> Step:
    """Return a step after a few iterations, of a network of latents only if memory will suffice for them."""
    here = find_device(device)
    if warn_about_emulation(training.open().precision, here):
        training = training._replace(precision="float32")
    recipe = training.open()
    at_once = recipe.micro_batch_size or recipe.batch_size
    if makes_latents(start) and (free := free_memory(here)) is not None:
        memory = measure_memory(randomise_weights(recipe), start)
        if memory and memory.total(1) + memory.weights["student"] > free:
            return Step(training, None, math.nan, memory.total(at_once) / GIB)
    # features are kept once
    recipe = replace(recipe, duration=max(min(recipe.duration, len(images)), recipe.batch_size))
    how = {"automatic": here.type != "cpu", "device": device, "patience": SECONDS}
    found = estimate(training.recipe, recipe, start, **how)
    if found.micro_batch < at_once:
        training = training._replace(micro_batch=1 << max(found.micro_batch, 1).bit_length() - 1)
    return Step(training, found, processes * found.images_per_second, found.memory_gib)


def shorten(step: Step, share: float) -> Step:
    """Return a step of fewer images, in two digits."""
    training, images = step.training, int(share * step.training.images)
    unit = 10 ** max(len(str(images)) - 2, 0)
    fewer = images if share == 1 else max(images // unit * unit, training.open().batch_size)
    return step._replace(training=training._replace(images=fewer))
