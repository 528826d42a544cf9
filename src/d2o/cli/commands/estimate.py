"""Estimate what a run needs: a GPU's memory by parts, and, from a few iterations on this machine, hours and disk.

examples:
  d2o estimate cifar10-d2o-f
  d2o estimate sd3-d2o-f --micro-batch 4 --json
  d2o estimate d2o-f --from teacher.safetensors --images 200000 --batch 64
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import tyro

from d2o.checkpoints import inspect, load
from d2o.cli.options import ModelOptions, parse, tell
from d2o.cli.progress import say
from d2o.cli.training import RecipeOptions
from d2o.diffusion.denoiser import Denoiser
from d2o.planning.estimate import Estimate, estimate
from d2o.planning.gpu_memory import GIB, GPUS, Memory, measure_memory
from d2o.planning.presets import randomise_weights, untrained_teacher
from d2o.training.loop import group
from d2o.training.memory import free_memory
from d2o.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class EstimateOptions(RecipeOptions, ModelOptions):
    """The options of `d2o estimate`."""

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """A name (see `d2o recipes`) or a .json or .yaml file."""
    from_: Annotated[str | None, tyro.conf.arg(name="from", aliases=["--teacher"], metavar="MODEL")] = None
    """The model to start from; by default a random network of the recipe's full size."""

    def find_shapes(self, recipe: Recipe) -> Denoiser:
        """Return the model to start from on the meta device."""
        if self.from_ is None:
            if self.asked:
                raise ValueError(f"--{next(iter(self.asked))} is for a model: name it with --from MODEL.")
            return untrained_teacher(self.recipe, recipe, "meta")
        model = inspect(self.from_, **self.load_options).denoiser
        return model if self.start == "auto" else self.adapt(model)  # which asks the model itself


def main(arguments: Sequence[str]) -> None:
    """Run `d2o estimate`."""
    options = parse(EstimateOptions, "estimate", arguments, __doc__)
    recipe = options.open_recipe(options.recipe)
    if isinstance(recipe, Recipe):
        record, text = answer(options, recipe)
    else:
        records, texts = zip(*(answer(options, stage) for stage in recipe.stages), strict=True)
        hours = [found["hours"] for found in records]
        total = None if None in hours else sum(hours)
        text = "".join(f"Stage {k} of {len(texts)}\n{lines}\n" for k, lines in enumerate(texts, 1))
        text += "All stages: " + ("not timed" if total is None else f"{total:,.2f} hours")
        text += ", without making images of the teacher" * any(stage.data is not None for stage in recipe.stages)
        record = {"hours": total, "stages": list(records)}
    tell(record, text, options.json)


def answer(options: EstimateOptions, recipe: Recipe) -> tuple[dict[str, Any], str]:
    """Return what one recipe takes, as a record and in lines."""
    memory = measure_memory(randomise_weights(recipe), options.find_shapes(recipe))
    free, timed = free_memory(group(options.device).device), None
    if memory is None or free is None or needed_here(memory) < free:
        say(f"{options.recipe}: timing a few iterations with random weights, which are as fast as any")
        model = None if options.from_ is None else options.adapt(load(options.from_, **options.load_options))
        timed = estimate(options.recipe, recipe, model, automatic=options.precision == "auto", device=options.device)
    found = {field.name: getattr(timed, field.name, None) for field in fields(Estimate)}
    record = {**found, "gpu": None if memory is None else record_memory(memory, recipe)}
    return record, "\n".join(describe_all(memory, timed, recipe, free))


def needed_here(memory: Memory) -> int:
    """Return the bytes of a trial with one image at once, beside which the model that is given stays."""
    return memory.total(1) + memory.weights["student"]


def describe_all(memory: Memory | None, timed: Estimate | None, recipe: Recipe, free: int | None) -> Iterator[str]:
    """Yield all lines of an answer; one of memory and time is there."""
    if memory is not None:
        yield from describe_memory(memory, recipe)
    if timed is not None:
        yield from describe(timed, recipe)
    elif memory is not None and free is not None:
        needed = f"one image at once needs {needed_here(memory) / GIB:.1f} GiB, including the given model"
        yield f"Not timed: {needed}, and {free / GIB:.1f} GiB are free here."
        again = "" if recipe.checkpointing else "--set checkpointing=true, "
        yield f"To use less memory: {again}a smaller --micro-batch or model, more in --set frozen=[...]."


def at_once(recipe: Recipe) -> int:
    return min(recipe.micro_batch_size or recipe.batch_size, recipe.batch_size)


def record_memory(memory: Memory, recipe: Recipe) -> dict[str, Any]:
    """Return the parts of a Memory in GiB, and how many images fit at once on common GPUs."""
    parts = {key: value for key, value in asdict(memory).items() if key != "weights"} | {"passing": memory.passing}
    total = memory.total(at_once(recipe))
    return {
        "weights_gib": {name: size / GIB for name, size in memory.weights.items()},
        **{f"{name}_gib": size / GIB for name, size in parts.items()},
        "micro_batch": at_once(recipe),
        "total_gib": total / GIB,
        "fitting": {str(gib): memory.fitting(gib) for gib in GPUS},
    }


def describe_memory(memory: Memory, recipe: Recipe) -> Iterator[str]:
    """Yield the lines of a Memory for a recipe."""
    weights = ", ".join(f"{name} {size / GIB:.2f}" for name, size in memory.weights.items())
    parts = ("student", "decoder", "discriminator", "passing")
    image = ", ".join(f"{name} {getattr(memory, name) / GIB:.2f}" for name in parts)
    yield f"GPU memory at a micro-batch of {at_once(recipe)}: {memory.total(at_once(recipe)) / GIB:.1f} GiB"
    yield f"  weights {sum(memory.weights.values()) / GIB:.2f} GiB: {weights}"
    yield (
        f"  optimizer {memory.moments / GIB:.2f} GiB, gradients {memory.gradients / GIB:.2f}, bfloat16 copies "
        f"{memory.copies / GIB:.2f}"
    )
    yield f"  per image {memory.image / GIB:.2f} GiB: {image}"
    rows = ((f"{gib} GiB ({names})", memory.fitting(gib)) for gib, names in GPUS.items())
    yield "  fits: " + "; ".join(f"{name} {f'{count:,} at once' if count else 'no'}" for name, count in rows)


def describe(found: Estimate, recipe: Recipe) -> Iterator[str]:
    """Yield the lines of an Estimate for a recipe."""
    days = f" ({found.hours / 24:,.0f} days)" if found.hours > 48 else ""
    free = "unknown" if found.memory_free_gib is None else f"{found.memory_free_gib:.1f} GiB"
    yield f"{found.images_per_second:,.1f} images/s, measured with batches of {found.tried}"
    yield f"{recipe.duration:,} images: {found.hours:,.2f} hours{days}"
    yield f"memory: about {found.memory_gib:.1f} GiB; free: {free}"
    yield f"disk: about {found.disk_gib:.2f} GiB; free: {found.disk_free_gib:.1f} GiB"
    yield f"{found.parameters:,} parameters, {found.frozen_share:.1%} of them frozen"
    if found.memory_free_gib is not None and found.memory_gib > found.memory_free_gib:
        fits = f"--micro-batch {found.micro_batch} fits, with the same batch of {recipe.batch_size}"
        smaller = "not even two images fit: use smaller networks, a smaller discriminator.size, or another machine"
        yield f"This does not fit into memory: {fits if found.micro_batch > 1 else smaller}."
    if found.disk_gib > found.disk_free_gib:
        yield "This does not fit on the disk: use another one."
