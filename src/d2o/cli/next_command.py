"""The commands that others end with, ready to paste: with all that the one before was given and they need, too."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from d2o.diffusion.denoiser import Denoiser
from d2o.training.freezing import CONVOLUTIONS, fitting_rules


def write_command(*words: str, program: Sequence[str] = ("d2o",)) -> str:
    """Return a command as a shell takes it, with what was imported by --import."""
    plugins = sys.modules.get("d2o.cli.plugins")
    return shlex.join([*program, *(f"--import={name}" for name in (plugins.IMPORTED if plugins else ())), *words])


def repeat(options: Any, *records: type) -> list[str]:
    """Return the words of those options that the records name and that were given other values than the default."""
    rows = [(field, getattr(options, field.name)) for record in records for field in fields(record)]
    given = [(field.name.replace("_", "-"), value) for field, value in rows if value != field.default]
    return [word for name, value in given for word in (f"--{name}", str(value))]


def freeze_as_d2o_f(model: Denoiser) -> list[str]:
    """Return how the recipe d2o-f is told what to freeze in a network without U-Nets' convolutions."""
    rules = fitting_rules(model)
    is_known = rules == CONVOLUTIONS or getattr(model.backbone, "kind", "") == "text_to_image"
    return [] if is_known else ["--set", f"frozen=[{','.join(rules)}]"]
