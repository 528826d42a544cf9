"""Print the completion of d2o's commands, options and choices for a shell.

examples:
  d2o completion bash > ~/.local/share/bash-completion/completions/d2o
  d2o completion zsh > ~/.zfunc/_d2o
"""

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, make_dataclass
from functools import reduce
from importlib import import_module
from operator import or_
from typing import Annotated, Any, Literal

import tyro

from .arguments import CONFIG, parse
from .main import COMMANDS

FALL_BACK = "complete -o bashdefault -o default -F "
"""Where there is nothing of ours to complete, bash completes names of files."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The options of `d2o completion`."""

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """The shell."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o completion`."""
    options = parse(Completion, "completion", arguments, __doc__)
    print(script(options.shell), end="")


def options_of(name: str) -> Any:
    """Return the record of a command's options: the one that its module defines, or one of its studies'."""
    module = import_module(f"d2o.cli.{name}")
    if studies := getattr(module, "STUDIES", None):
        choice = one_of({study: (row[0], row[2]) for study, row in studies.items()})
        return make_dataclass(name.capitalize(), [("study", choice)])
    (record,) = [
        value for value in vars(module).values() if is_dataclass(value) and value.__module__ == module.__name__
    ]
    return record


def one_of(records: dict[str, tuple[Any, str]]) -> Any:
    """Return the type of a choice among records by name, each with a sentence."""
    rows = (Annotated[record, tyro.conf.subcommand(name, description=text)] for name, (record, text) in records.items())
    return reduce(or_, rows)


def script(shell: str) -> str:
    """Return the completion of all commands as a shell's program."""
    commands = one_of({name: (options_of(name), sentence) for name, sentence in COMMANDS.items()})
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        warnings.simplefilter("ignore")
        config = (*CONFIG, tyro.conf.OmitSubcommandPrefixes)
        tyro.cli(commands, prog="d2o", args=["--tyro-print-completion", shell], config=config)
    return printed.getvalue().replace("complete -F ", FALL_BACK)
