"""Say what a run would take on this machine, from a few of its iterations: images a second, hours, memory, disk.

examples:
  d2o estimate cifar10-d2o-f
  d2o estimate d2o-f --from teacher.safetensors --images 200000 --batch 64
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro

from d2o.cli.options import Set, parse, recipe_from
from d2o.cli.progress import say


@dataclass(frozen=True, kw_only=True)
class EstimateOptions:
    """The options of `d2o estimate`."""

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """A name (see `d2o recipes`) or a .json or .yaml file."""
    from_: Annotated[str | None, tyro.conf.arg(name="from", metavar="MODEL")] = None
    """The model to start from; by default a network of the recipe's full size with random weights."""
    images: int | None = None
    """Images to train on."""
    batch: int | None = None
    """Images an iteration."""
    micro_batch: int | None = None
    """Images that pass through the networks at once."""
    precision: Literal["float32", "bfloat16", "auto"] | None = None
    """Of the denoiser's network; auto: the one that trains faster here, by trying."""
    set: Set = ()
    """Change any other key of the recipe: --set discriminator.size=64."""
    json: bool = False
    """Print JSON."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o estimate`."""
    options = parse(EstimateOptions, "estimate", arguments, __doc__)
    changes = {
        "duration": options.images,
        "batch_size": options.batch,
        "micro_batch_size": options.micro_batch,
        "precision": None if options.precision == "auto" else options.precision,
    }
    recipe = recipe_from(options.recipe, changes, options.set)
    from d2o.training.estimate import estimate

    say(f"{options.recipe}: trying a few iterations; weights are random, which are as fast as any")
    found = estimate(options.recipe, recipe, options.from_, choose_precision=options.precision == "auto", say=say)
    print(json.dumps(asdict(found), indent=2) if options.json else "\n".join(describe(found, recipe)))


def describe(found: Any, recipe: Any) -> Iterator[str]:
    """Yield the lines of an Estimate for a recipe."""
    days = f" ({found.hours / 24:,.0f} days)" if found.hours > 48 else ""
    free = "unknown" if found.memory_free_gib is None else f"{found.memory_free_gib:.1f} GiB"
    yield f"{found.images_per_second:,.1f} images/s, measured at batches of {found.tried}"
    yield f"{recipe.duration:,} images: {found.hours:,.2f} hours{days}"
    yield f"memory: about {found.memory_gib:.1f} GiB; free: {free}"
    yield f"disk: about {found.disk_gib:.2f} GiB; free: {found.disk_free_gib:.1f} GiB"
    yield f"{found.parameters:,} parameters, {found.frozen_share:.1%} of them frozen"
    if found.memory_free_gib is not None and found.memory_gib > found.memory_free_gib:
        remedy = (
            f"--micro-batch {found.micro_batch} would fit; the batch stays {recipe.batch_size}, its gradients are "
            "accumulated"
            if found.micro_batch > 1
            else "not even two images fit: use smaller networks, a smaller discriminator.size, or another machine"
        )
        yield f"This does not fit into memory: {remedy}."
    if found.disk_gib > found.disk_free_gib:
        yield "This does not fit on the disk: use another one."
