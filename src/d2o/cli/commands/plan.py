"""Suggest settings for your images, this machine and your time: two commands to paste, and the reasons.

examples:
  d2o plan --data photos
  d2o plan --data photos --hours 8 --json
  d2o plan --data photos --from runs/teacher --hours 0.5
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from d2o.checkpoints import load
from d2o.cli.options import (
    DataOptions,
    DeviceOptions,
    Preparation,
    StateDictOptions,
    check_inputs,
    parse,
    repeat,
    tell,
    write_command,
)
from d2o.cli.progress import say
from d2o.data.datasets import Images
from d2o.planning.plan import Plan, plan
from d2o.planning.table import look_at


@dataclass(frozen=True, kw_only=True)
class PlanOptions(DataOptions, DeviceOptions, StateDictOptions):
    """The options of `d2o plan`."""

    hours: float = 2.0
    """Time limit for both commands together."""
    from_: Annotated[str | None, tyro.conf.arg(name="from", metavar="MODEL")] = None
    """An existing model: plan only its fine-tuning."""
    base: str | None = None
    """The model that it was fine-tuned from, if the file has only the weights that fine-tuning changed."""
    codec: str | None = None
    """Folder of a latent model's autoencoder (diffusers)."""
    json: bool = False
    """Print JSON instead of text."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o plan`."""
    options = parse(PlanOptions, "plan", arguments, __doc__)
    options.find_device()
    check_inputs(options.from_, options.base, data=options.data, codec=options.codec)
    look = look_at(options.data, options.labels, options.split, options.captions)
    given = {"base": options.base, "codec": options.codec, **options.load_options}
    model = None if options.from_ is None else load(options.from_, **given)
    say("Timing a few iterations with random weights, which are as fast as any.")

    def open_prepared(preparation: Mapping[str, Any]) -> Images:
        return prepared(options, preparation).open(model)

    found = plan(look, open_prepared, options.hours, options.device, model, options.resolution)
    commands = write_commands(prepared(options, found.preparation), found)
    record = {"commands": commands, "hours": found.hours, "memory": found.memory_gib, "quality": found.quality}
    tell({**record, "reasons": found.reasons}, "\n".join(describe(found, commands)), options.json)


def prepared(options: PlanOptions, preparation: Mapping[str, Any]) -> PlanOptions:
    """Return the options with a preparation of images, as far as they do not say another."""
    return replace(options, **{k: value for k, value in preparation.items() if getattr(options, k) is None})


def write_commands(options: PlanOptions, found: Plan) -> list[str]:
    """Return the commands of the steps, into folders that are not there yet."""
    several = ("torchrun", "--nproc_per_node", str(found.processes), "-m", "d2o")
    program = several if found.processes > 1 else ("d2o",)
    name = re.sub(r"[^\w.-]+", "-", found.images.name).strip("-.") or "images"
    places = (f"runs/{name}{number}" for number in ("", *(f"-{k}" for k in range(2, 1000))))
    out = next(place for place in places if not any(Path(place + end).exists() for end in ("", "-one-step")))
    start = {"from": options.from_ or out, "base": options.base, "codec": options.codec}
    begins = [("pretrain", {}, out), ("finetune", start | repeat(options, StateDictOptions), f"{out}-one-step")]
    common = {"data": options.data, **repeat(options, Preparation, DeviceOptions)}
    common |= {} if found.device == "cpu" else {"precision": "auto"}
    rows = zip(begins[-len(found.steps) :], found.steps, strict=True)
    return [
        write_command(name, {**begin, **common, **step.training.options, "out": end}, program=program)
        for (name, begin, end), step in rows
    ]


def describe(found: Plan, commands: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a plan."""
    shape = "x".join(map(str, found.images.shape))
    for step, command in zip(found.steps, commands, strict=True):
        recipe = step.training.open()
        network = f"{step.found.parameters:,} parameters, {step.found.frozen_share:.0%} frozen, " if step.found else ""
        hours = "not timed" if step.hours is None else f"{step.hours:.2g} hours"
        yield command
        yield f"  {hours}: {network}images of {shape}, batches of {recipe.batch_size}, {recipe.duration:,} images\n"
    hours = "not timed" if found.hours is None else f"{found.hours:.2g} hours"
    yield f"In total {hours}, and about {found.memory_gib:.1f} GiB of memory on top of Python's own."
    yield found.quality
    yield "\nWhy:"
    yield from (f"- {reason}" for reason in found.reasons)
