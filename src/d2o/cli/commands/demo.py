"""Train a one-step generator in minutes, of digits or of captioned emoji or shapes, and compare it with its teacher.

examples:
  d2o demo
  d2o demo digits --seed 1 --out runs/demo-1
  d2o demo shapes --from shapes-teacher --out runs/shapes
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from d2o.cli.options import DeviceOptions, parse, tell
from d2o.cli.progress import counted, say, watch


@dataclass(frozen=True, kw_only=True)
class Demo(DeviceOptions):
    """The options of `d2o demo`."""

    name: Annotated[
        tyro.conf.Positional[Literal["emoji", "digits", "shapes"]], tyro.conf.arg(metavar="[emoji|digits|shapes]")
    ] = "emoji"
    """Emoji from their names, from a teacher that comes with d2o, or handwritten digits from scratch, in five minutes;
    coloured shapes from captions, in twenty."""
    out: str | None = None
    """Directory of the runs and of report.html; by default demo, demo-digits or demo-shapes."""
    from_: Annotated[str | None, tyro.conf.arg(name="from", aliases=["--teacher"], metavar="MODEL")] = None
    """For emoji and shapes: the teacher. Shapes then need no pre-training (shapes-teacher: about five minutes)."""
    seed: int = 0
    """Seed of everything random."""
    processes: int | None = None
    """No longer has an effect: one process with two threads is as fast."""
    json: bool = False
    """Print JSON instead of text."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o demo`."""
    options = parse(Demo, "demo", arguments, __doc__)
    if options.processes is not None:
        say("--processes no longer has an effect: one process with two threads is as fast.")
    options.find_device()
    run, default = DEMOS[options.name]
    summary, sentence = run(options, default if options.out is None else options.out)
    tell(summary, sentence, options.json)


def run_digits(options: Demo, out: str) -> tuple[dict[str, Any], str]:
    if options.from_ is not None:
        raise ValueError(
            "--from is for the emoji and shapes demos, as in d2o demo shapes --from shapes-teacher: leave it out."
        )
    from d2o.demo.digits import demo

    summary = demo(out, options.seed, watch, counted, options.device)
    kid = summary["kid"]
    return summary, (
        f"KID: teacher in 35 calls {kid['teacher']:.3f}, teacher in one call {kid['untuned']:.3f}, "
        f"student in one call {kid['student']:.3f}; {summary['speed_ratio']:.0f} times as fast as the teacher."
    )


def run_emoji(options: Demo, out: str) -> tuple[dict[str, Any], str]:
    from d2o.demo.emoji import CALLS, demo

    summary = demo(out, options.seed, watch, counted, start=options.from_, device=options.device)
    found = {name: f"{share:.0%}" for name, share in summary["retrieval"].items()}
    return summary, (
        f"Images that match the prompt: teacher in {CALLS} calls {found['teacher']}, teacher in one call "
        f"{found['untuned']}, student in one call {found['student']}; {summary['speed_ratio']:.0f} times as fast."
    )


def run_shapes(options: Demo, out: str) -> tuple[dict[str, Any], str]:
    from d2o.demo.shapes import demo

    summary = demo(out, options.seed, watch, counted, start=options.from_, device=options.device)
    seen, held_out = summary["seen"], summary["held_out"]
    right = {name: f"{seen[name]['all_right']:.3f} / {held_out[name]['all_right']:.3f}" for name in seen}
    return summary, (
        f"Share of images that match their caption, training / held-out: teacher in {seen['teacher']['calls']} calls "
        f"{right['teacher']}, teacher in one call {right['untuned']}, student in one call {right['student']}."
    )


DEMOS: dict[str, tuple[Callable[[Demo, str], tuple[dict[str, Any], str]], str]] = {
    "emoji": (run_emoji, "demo"),
    "digits": (run_digits, "demo-digits"),
    "shapes": (run_shapes, "demo-shapes"),
}
"""How each is run, and its default directory."""
