"""See why it works, on any checkpoint: where frequencies appear, which block makes them, how far teacher and student are.

studies:
  spectrum     which frequencies change at which noise level, from noise to image
  blocks       which block works on which frequencies, and what fine-tuning changed
  minima       how far a teacher's images are from its student's, and what lies between their weights
  parts        fine-tune one block or role at a time: does its frequency response predict its gain?
  bands        take one frequency band away, from blocks or from the gradient: which does quality need?
  pretraining  how one-step quality grows with the length of pre-training

examples:
  d2o analyze spectrum runs/teacher --student runs/one-step --data digits --out why
  d2o analyze blocks runs/teacher --after runs/one-step --out why
  d2o analyze STUDY --help
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import tyro

from .arguments import DataOptions, parse, with_codec
from .terminal import say


@dataclass(frozen=True, kw_only=True)
class Output:
    """Options of every study."""

    out: str
    """Directory of the results: JSON, PNG, SVG, and one HTML page."""
    device: str = "cpu"
    """cpu, cuda, mps."""


@dataclass(frozen=True, kw_only=True)
class Walk(Output):
    """Options of the way from noise to images."""

    model: tyro.conf.Positional[str]
    """The teacher: a checkpoint or a run directory."""
    steps: int = 18
    """Noise levels at which it is watched."""
    sampler: Literal["heun", "euler"] = "heun"
    """How it walks from one to the next."""
    seeds: str = "0-63"
    """Image i depends on its seed only: 0-63 or 1,5,9."""
    batch: int = 64
    """Images at once: the memory that is needed."""


@dataclass(frozen=True, kw_only=True)
class Spectrum(Walk):
    """The options of `d2o analyze spectrum`."""

    student: str | None = None
    """A one-step student of it, to be compared."""
    data: str | None = None
    """Real images to be compared: a folder, an EDM zip, an .npz, .parquet, or `digits`."""


@dataclass(frozen=True, kw_only=True)
class Blocks(Walk):
    """The options of `d2o analyze blocks`."""

    after: str | None = None
    """The same network after fine-tuning."""


def load(options: Output, model: str) -> Any:
    """Return a model on the device."""
    import d2o

    return with_codec(d2o.load(model, device=options.device), None)


def spectrum(options: Spectrum) -> tuple[Any, list]:
    """Return the findings and figures of `d2o analyze spectrum`."""
    from d2o.analysis import figures, spectrum
    from d2o.pixels.datasets import open_images
    from d2o.pixels.files import parse_seeds

    study = spectrum.spectrum(
        load(options, options.model),
        student=None if options.student is None else load(options, options.student),
        images=None if options.data is None else open_images(options.data),
        seeds=parse_seeds(options.seeds),
        steps=options.steps,
        sampler=options.sampler,
        batch_size=options.batch,
    )
    return spectrum.findings(study), figures.of_spectrum(study)


def blocks(options: Blocks) -> tuple[Any, list]:
    """Return the findings and figures of `d2o analyze blocks`."""
    from d2o.analysis import block_figures, blocks
    from d2o.pixels.files import parse_seeds

    study = blocks.blocks(
        load(options, options.model),
        None if options.after is None else load(options, options.after),
        seeds=parse_seeds(options.seeds),
        steps=options.steps,
        sampler=options.sampler,
        batch_size=options.batch,
    )
    return blocks.findings(study), block_figures.of_blocks(study)


STUDIES: dict[str, tuple[type, Callable[[Any], tuple[Any, list]], str]] = {
    "spectrum": (
        Spectrum,
        spectrum,
        """Which frequencies change between successive outputs, at each noise level.

examples:
  d2o analyze spectrum runs/teacher --out why
  d2o analyze spectrum runs/teacher --student runs/one-step --data digits --seeds 0-255 --out why
""",
    ),
    "blocks": (
        Blocks,
        blocks,
        """Which block of the network works on which frequencies, and what fine-tuning changed.

examples:
  d2o analyze blocks runs/teacher --out why
  d2o analyze blocks runs/teacher --after runs/one-step --steps 18 --out why
""",
    ),
}


def main(arguments: Sequence[str]) -> None:
    """Run `d2o analyze`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: d2o analyze STUDY [OPTIONS]\n\n{__doc__}", end="")
        return
    name, *rest = arguments
    if name not in STUDIES:
        close = difflib.get_close_matches(name, STUDIES, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(STUDIES)}."
        raise ValueError(f"There is no study {name!r}: {hint}")
    record, study, description = STUDIES[name]
    options = parse(record, f"analyze {name}", rest, description)
    found, drawings = study(options)
    from d2o.analysis.page import write

    page = write(options.out, found, drawings, asdict(options))
    print(found.text())
    say(f"Look at {page}")
