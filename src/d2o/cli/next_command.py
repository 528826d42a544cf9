"""The commands that others end with, ready to paste: with all that the one before was given and they need, too."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from d2o.diffusion.denoiser import Denoiser
from d2o.training.freezing import CONVOLUTIONS, fitting_rules


def write_command(command: str, options: Mapping[str, Any], *words: str, program: Sequence[str] = ("d2o",)) -> str:
    """Return a command as a shell takes it: its words, its options that are not None, and what --import has named."""
    plugins = sys.modules.get("d2o.cli.plugins")
    imports = [f"--import={name}" for name in (plugins.IMPORTED if plugins else ())]
    given = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join([*program, *imports, command, *words, *given])


def repeat(options: Any, *records: type) -> dict[str, Any]:
    """Return those options, by name, that the records have and that were given other values than the default."""
    rows = [(field, getattr(options, field.name)) for record in records for field in fields(record)]
    return {field.name.replace("_", "-"): value for field, value in rows if value != field.default}


def freeze_as_d2o_f(model: Denoiser) -> dict[str, str]:
    """Return how the recipe d2o-f is told what to freeze in a network without U-Nets' convolutions."""
    rules = fitting_rules(model)
    is_known = rules == CONVOLUTIONS or getattr(model.backbone, "kind", "") == "text_to_image"
    return {"recipe": "d2o-f"} | ({} if is_known else {"set": f"frozen=[{','.join(rules)}]"})
