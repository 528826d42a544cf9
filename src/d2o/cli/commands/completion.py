"""Print the completion of d2o's commands, options and their values for a shell.

examples:
  d2o completion bash > ~/.local/share/bash-completion/completions/d2o
  d2o completion zsh > ~/.zfunc/_d2o
  d2o completion fish > ~/.config/fish/completions/d2o.fish
"""

import ast
import contextlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, make_dataclass
from functools import reduce
from importlib import import_module
from operator import or_
from typing import Annotated, Any, Literal

import tyro

from d2o.checkpoints.shipped import SHIPPED
from d2o.cli.main import COMMANDS
from d2o.cli.options import CONFIG, parse
from d2o.data.decoding import RESIZE
from d2o.metrics.spaces import TITLES
from d2o.training.recipes import BACKBONES, RECIPES

DEVICES = ("cpu", "cuda", "mps")
VALUES = {
    "--backbone": BACKBONES,
    "--device": DEVICES,
    "--features": TITLES,
    "--recipe": RECIPES,
    "--resize": RESIZE,
}
"""What is offered for an option, which may also take a file or another name."""
FIRST_WORDS = {"app": SHIPPED, "completion": ("bash", "zsh", "fish"), "estimate": RECIPES, "recipes": RECIPES}
"""What is offered after a command."""
SPECIFICATION = re.compile(r"(?m)^COMPLETION_SPEC = (\{.*\})$")
FILES = "__TYRO_COMPLETE_FILES__"
"""What tyro's program says to its shell where names of files are to be completed."""
CHANGES = {
    # where there is nothing of ours to offer, files are
    "for completion in completions:\n        print": f"for completion in completions or ['{FILES}']:\n        print",
    # bash completes files itself, with a slash after folders
    'COMPREPLY=($(compgen -f -- "$cur"))': "COMPREPLY=()",
    "complete -F ": "complete -o bashdefault -o default -F ",
    # a program as long as ours cannot be an argument
    '$python_cmd -c "$pycode" $words': 'printf %s "$pycode" | $python_cmd - $words',
    # fish says the word that is being typed apart from those before it
    "set -l current (count $words)": "set -l current (count $words)\n    set -a words (commandline -ct)",
}


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The options of `d2o completion`."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """The shell."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o completion`."""
    options = parse(Completion, "completion", arguments, __doc__)
    print(script(options.shell), end="")


def options_of(name: str) -> Any:
    """Return the record of a command's options: the one that its module defines, or one of its studies'."""
    module = import_module(f"d2o.cli.commands.{name}")
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
    """Return the completion of all commands as a shell's program: tyro's, with more values and names of files."""
    commands = one_of({name: (options_of(name), sentence) for name, sentence in COMMANDS.items()})
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        warnings.simplefilter("ignore")
        config = (*CONFIG, tyro.conf.OmitSubcommandPrefixes)
        tyro.cli(commands, prog="d2o", args=["--tyro-print-completion", shell], config=config)
    text = printed.getvalue()
    for before, after in CHANGES.items():
        text = text.replace(before, after)
    return SPECIFICATION.sub(lambda found: f"COMPLETION_SPEC = {enriched(found[1], shell == 'fish')}", text)


def enriched(text: str, in_quotes: bool) -> str:
    """Return tyro's record of commands and options, as Python writes it, with the values of VALUES and FIRST_WORDS."""
    record = ast.literal_eval(re.sub(r"\\(.)", r"\1", text) if in_quotes else text)
    for name, command in record["subcommands"].items():
        command["description"] = COMMANDS[name]
        offer(command)
        words = ({"flags": [word], "description": word, "type": "flag"} for word in FIRST_WORDS.get(name, ()))
        command["options"] += words  # what tyro's program offers by its beginning, and passes over when it is there
    return quoted(repr(record)) if in_quotes else repr(record)


def offer(command: dict[str, Any]) -> None:
    """Add the values of VALUES to a command's options and to its studies'; None is a default that nobody types."""
    for option in command["options"]:
        values = VALUES.get(option["flags"][0], option.get("choices", ()))
        if offered := sorted(value for value in values if value != "None"):
            option |= {"type": "choice", "choices": offered}
    for study in command["subcommands"].values():
        offer(study)


def quoted(text: str) -> str:
    """Return a text as it stands within double quotes of fish."""
    return re.sub(r'([\\"$])', r"\\\1", text)
