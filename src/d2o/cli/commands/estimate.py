"""Say what a run would take on this machine, from a few of its iterations: images a second, hours, memory, disk.

examples:
  d2o estimate cifar10-d2o-f
  d2o estimate d2o-f --from teacher.safetensors --images 200000 --batch 64
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from d2o.checkpoints import load
from d2o.cli.options import ModelOptions, parse, tell
from d2o.cli.progress import say
from d2o.cli.training import RecipeOptions
from d2o.training.estimate import Estimate, estimate
from d2o.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class EstimateOptions(RecipeOptions, ModelOptions):
    """The options of `d2o estimate`."""

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """A name (see `d2o recipes`) or a .json or .yaml file."""
    from_: Annotated[str | None, tyro.conf.arg(name="from", metavar="MODEL")] = None
    """The model to start from; by default a network of the recipe's full size with random weights."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o estimate`."""
    options = parse(EstimateOptions, "estimate", arguments, __doc__)
    recipe, model = options.open_recipe(options.recipe), None
    if options.from_ is not None:
        model = options.adapt(load(options.from_, **options.load_options))
    elif options.asked:
        raise ValueError(f"--{next(iter(options.asked))} is for a model: name it with --from MODEL.")
    say(f"{options.recipe}: trying a few iterations; weights are random, which are as fast as any")
    found = estimate(options.recipe, recipe, model, automatic=options.precision == "auto")
    tell(asdict(found), "\n".join(describe(found, recipe)), options.json)


def describe(found: Estimate, recipe: Recipe) -> Iterator[str]:
    """Yield the lines of an Estimate for a recipe."""
    days = f" ({found.hours / 24:,.0f} days)" if found.hours > 48 else ""
    free = "unknown" if found.memory_free_gib is None else f"{found.memory_free_gib:.1f} GiB"
    yield f"{found.images_per_second:,.1f} images/s, measured at batches of {found.tried}"
    yield f"{recipe.duration:,} images: {found.hours:,.2f} hours{days}"
    yield f"memory: about {found.memory_gib:.1f} GiB; free: {free}"
    yield f"disk: about {found.disk_gib:.2f} GiB; free: {found.disk_free_gib:.1f} GiB"
    yield f"{found.parameters:,} parameters, {found.frozen_share:.1%} of them frozen"
    if found.memory_free_gib is not None and found.memory_gib > found.memory_free_gib:
        fits = f"--micro-batch {found.micro_batch} fits, at the same batch of {recipe.batch_size}"
        smaller = "not even two images fit: use smaller networks, a smaller discriminator.size, or another machine"
        yield f"This does not fit into memory: {fits if found.micro_batch > 1 else smaller}."
    if found.disk_gib > found.disk_free_gib:
        yield "This does not fit on the disk: use another one."
