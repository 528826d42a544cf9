"""Measure how fast this machine trains and samples, part by part, and what all tricks together are worth.

examples:
  d2o bench --plain
  d2o bench --plain --json --out bench.json
  d2o bench --from runs/teacher --recipe cifar10-small-d2o-f --compare bench.json
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from d2o.cli.options import parse
from d2o.cli.progress import say
from d2o.files import checked_file

MOST_THREADS = 1024
"""More than torch is sure to take."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The options of `d2o bench`."""

    recipe: str = "cifar10-small-d2o-f"
    """A recipe of D2O-F; its discriminator and batch are measured."""
    from_: Annotated[str | None, tyro.conf.arg(name="from", metavar="MODEL")] = None
    """The teacher; by default a small network of random weights for 16x16 images."""
    batch: int | None = None
    """Images an iteration."""
    plain: bool = False
    """Beside ours, train as the released code does: everything twice, nothing remembered; gives the ratios."""
    repeats: int = 10
    """Iterations that are measured, each in turn with its rival."""
    threads: int | None = None
    """Threads; by default one a core."""
    json: bool = False
    """Print JSON instead of tables."""
    out: str | None = None
    """Write the figures to FILE.json, and a plot beside it."""
    compare: str | None = None
    """A file of an earlier run: tell what changed, in the JSON, too."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o bench`."""
    options = parse(Bench, "bench", arguments, __doc__)
    if options.repeats < 1 or (options.batch is not None and options.batch < 2):
        raise ValueError("--repeats is at least 1 and --batch at least 2, since batch norms need several images.")
    if options.threads is not None and not 1 <= options.threads <= MOST_THREADS:
        raise ValueError(f"--threads is from 1 to {MOST_THREADS}, not {options.threads}.")
    if options.out is not None and Path(options.out).suffix != ".json":
        raise ValueError(f"--out {options.out} must end in .json; the plot is written beside it.")
    if options.out is not None and not (folder := Path(options.out).resolve().parent).exists():
        raise ValueError(f"--out {options.out}: its folder {folder} does not exist; make it first.")
    if options.out is not None:
        checked_file(options.out)
    import torch

    from d2o.bench import report
    from d2o.bench.measure import measure
    from d2o.bench.problem import Choice

    earlier = None if options.compare is None else report.read(options.compare)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    choice = Choice(options.recipe, options.from_, options.batch)
    found = measure(choice, options.repeats, options.plain, lambda what: say(f"bench: {what}"))
    if earlier is not None:
        found["compared"] = report.compare(found, earlier)
        found["notes"] = [*found["notes"], *report.differences(found, earlier)]
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        report.show(found, earlier)
    if options.out is not None:
        report.write(options.out, found)
