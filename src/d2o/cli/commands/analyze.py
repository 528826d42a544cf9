"""See why it works, on any checkpoint: where frequencies appear, which blocks make them, and what that predicts.

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
from dataclasses import asdict
from typing import Any

from d2o.cli import studies
from d2o.cli.options import parse
from d2o.cli.progress import say
from d2o.files import checked_folder

STUDIES: dict[str, tuple[type, Callable[[Any], studies.Result], str]] = {
    "spectrum": (
        studies.Spectrum,
        studies.spectrum,
        """Which frequencies change between successive outputs, at each noise level.

examples:
  d2o analyze spectrum runs/teacher --out why
  d2o analyze spectrum runs/teacher --student runs/one-step --data digits --seeds 0-255 --out why
""",
    ),
    "blocks": (
        studies.Blocks,
        studies.blocks,
        """Which block of the network works on which frequencies, and what fine-tuning changed.

examples:
  d2o analyze blocks runs/teacher --out why
  d2o analyze blocks runs/teacher --after runs/one-step --steps 18 --out why
""",
    ),
    "minima": (
        studies.Minima,
        studies.minima,
        """How far a teacher's images are from its students', seed by seed, and both from the data.
The same command again continues where it was cut off.

examples:
  d2o analyze minima runs/teacher runs/one-step --data digits --out why
  d2o analyze minima teacher.pkl d2o.safetensors d2o-f.safetensors --data c10.zip --count 5000 --out why
""",
    ),
    "parts": (
        studies.Parts,
        studies.parts,
        """Fine-tune one block or role at a time, and compare the gain with the block's frequencies.

examples:
  d2o analyze parts runs/teacher --data digits --out why
  d2o analyze parts c10-teacher.safetensors --data c10.zip --recipe cifar10-d2o --images 200000 --count 5000 --out why
""",
    ),
    "bands": (
        studies.Bands,
        studies.bands,
        """Take one band of frequencies from a block's output or from the gradient.

examples:
  d2o analyze bands runs/teacher --student runs/one-step --data digits --out why
  d2o analyze bands c10-teacher.safetensors --data c10.zip --recipe cifar10-d2o-f --images 200000 --out why
""",
    ),
    "pretraining": (
        studies.Pretraining,
        studies.pretraining,
        """How one-step quality, after a fixed fine-tuning, grows with pre-training.

examples:
  d2o analyze pretraining --data digits --out why
  d2o analyze pretraining --data c10.zip --pretrain small.yaml --recipe cifar10-d2o-f --lengths 50000 400000 --out why
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
    from d2o.analysis.page import write

    checked_folder(options.out)
    found, drawings = study(options)
    page = write(options.out, found, drawings, asdict(options))
    print(found.text())
    say(f"Look at {page}")
