"""Train a one-step generator of handwritten digits in minutes and show it beside its teacher.

examples:
  d2o demo
  d2o demo --seed 1 --out runs/demo-1
"""

from collections.abc import Sequence
from dataclasses import dataclass

from d2o.cli.options import parse, tell
from d2o.cli.progress import counted, say, watch


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The options of `d2o demo`."""

    out: str = "demo"
    """Directory of the two runs and of report.html."""
    seed: int = 0
    """Seed of everything random."""
    processes: int | None = None
    """Has no effect any more: one process with two threads is as fast."""
    json: bool = False
    """Print JSON instead of text."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o demo`."""
    options = parse(Demo, "demo", arguments, __doc__)
    if options.processes is not None:
        say("--processes has no effect any more: one process with two threads is as fast.")
    from d2o.demo.story import demo

    summary = demo(options.out, options.seed, watch, counted)
    kid = summary["kid"]
    sentence = (
        f"KID: teacher in 35 calls {kid['teacher']:.3f}, teacher in one call {kid['untuned']:.3f}, "
        f"student in one call {kid['student']:.3f}; {summary['speed_ratio']:.0f} times as fast as the teacher."
    )
    tell(summary, sentence, options.json)
