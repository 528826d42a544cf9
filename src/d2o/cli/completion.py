"""`d2o --tyro-print-completion SHELL`: commands and their options, as the option parser's own program for a shell."""

from collections.abc import Mapping
from dataclasses import is_dataclass, make_dataclass
from functools import reduce
from importlib import import_module
from inspect import getdoc
from operator import or_
from typing import Annotated, Any

import tyro

from .main import COMMANDS
from .options import CONFIG


def print_completion(arguments: list[str]) -> None:
    commands = one_of({name: (options_of(name), sentence) for name, sentence in COMMANDS.items()})
    tyro.cli(commands, prog="d2o", args=arguments, config=(*CONFIG, tyro.conf.OmitSubcommandPrefixes))


def options_of(name: str) -> Any:
    """Return the record of a command's options: that of its module, or the choice of its studies."""
    module = import_module(f"d2o.cli.commands.{name}")
    if studies := vars(module).get("STUDIES"):
        choice = one_of({study: (record, getdoc(record) or study) for study, record in studies.items()})
        return make_dataclass(name.capitalize(), [("study", choice)])
    records = [row for row in vars(module).values() if is_dataclass(row) and row.__module__ == module.__name__]
    return records[-1]


def one_of(records: Mapping[str, tuple[Any, str]]) -> Any:
    """Return the type of a choice among records by name, each with a sentence."""
    rows = (Annotated[record, tyro.conf.subcommand(name, description=text)] for name, (record, text) in records.items())
    return reduce(or_, rows)
