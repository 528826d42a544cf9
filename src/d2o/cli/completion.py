"""`d2o --tyro-print-completion SHELL`: commands and their options, as the option parser's own program for a shell."""

from dataclasses import is_dataclass
from functools import reduce
from importlib import import_module
from operator import or_
from typing import Annotated, Any

import tyro

from .main import COMMANDS
from .options import CONFIG


def print_completion(arguments: list[str]) -> None:
    """Print the program; exits."""
    commands = [
        Annotated[record, tyro.conf.subcommand(name, description=COMMANDS[name])]
        for name in COMMANDS
        for record in options_of(name)
    ]
    tyro.cli(reduce(or_, commands), prog="d2o", args=arguments, config=(*CONFIG, tyro.conf.OmitSubcommandPrefixes))


def options_of(name: str) -> list[Any]:
    """Return the record of a command's options, as a list of one; of none where a command has several."""
    module = import_module(f"d2o.cli.commands.{name}")
    records = [row for row in vars(module).values() if is_dataclass(row) and row.__module__ == module.__name__]
    return records[:1]
