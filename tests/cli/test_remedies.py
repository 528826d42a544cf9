"""Remedies name options that exist in the commands that may show them; what is offered instead of a word would work."""

import ast
import io
import re
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path

import pytest

import d2o
from d2o.cli.main import COMMANDS, GONE, run
from d2o.records import nearest
from d2o.training.recipes import RECIPES

SOURCE = Path(d2o.__file__).parent
WORD = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
STUDIES = tuple(f"analyze {study}" for study in ("spectrum", "blocks", "minima"))
TRAINING, ON_DATA = ("pretrain", "finetune"), ("pretrain", "finetune", "evaluate", "statistics", "analyze spectrum")
OPENING = ("sample", "evaluate", "app", "serve", "export", *STUDIES)
WHERE = {  # what begins so, the last that does -> who may show its sentences
    "cli/": (*sorted(COMMANDS - {"analyze": ""}.keys()), *STUDIES),
    **{f"cli/commands/{name}": STUDIES if name == "analyze" else (name,) for name in COMMANDS},
    "cli/main": (),  # whatever the command is
    "cli/plugins": (),
    "cli/training": TRAINING,
    "training/": TRAINING,
    "planning/": ("estimate",),
    "planning/plan": ("plan",),
    "training/networks": ("finetune", "analyze minima"),
    "training/recipe": (*TRAINING, "estimate"),
    "discriminators/": (*TRAINING, "estimate"),
    "objectives/": ("finetune",),
    "data/": (*ON_DATA, "analyze minima"),
    "encoders/": ("finetune", *OPENING),
    "devices": ("sample", "evaluate", "serve", "app", "estimate", "encode", "statistics", "demo", *TRAINING, *STUDIES),
    "data/files": ("sample", "analyze spectrum", "analyze blocks"),
    "analysis/": ("analyze minima",),
    "metrics/evaluation": ("evaluate",),
    "demo/": ("demo",),
    "analysis/spectrum": ("analyze spectrum",),
    "export/": ("export",),
    "export/push": ("push",),
    "server/": ("serve",),
    "server/access": ("app", "serve"),
    "server/query": (),
    "server/server": ("app", "serve"),
    "checkpoints/": (*OPENING, "finetune", "estimate", "convert", "inspect"),
}
QUOTED = {"--import", "--points", "--runs", "--version", "--upload-limit", "--nproc"}
"""Of every command, of torchrun, or named because they are gone."""
OTHERS = {
    "--set": "cli/options",
    "--start": "cli/options",
    "--clip": "cli/options",
    "--precision": "training/speed",
    "--steps": "cli/options",
    "--after": "cli/commands/analyze",
    "--images": "cli/commands/analyze",
}
"""Words that are shown by some of the commands only, those that have the option, and where."""


@cache
def options(command: str) -> set[str]:
    with redirect_stdout(io.StringIO()) as shown, suppress(SystemExit):
        run([*command.split(), "--help"])
    return {word.replace("_", "-") for word in WORD.findall(shown.getvalue())}


def sentences():
    """Yield (file, text) of every string in the source that is no docstring."""
    for file in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(file.read_text())
        silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        silent |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            known = [part.value if isinstance(part, ast.Constant) else "..." for part in parts]
            text = "".join(value for value in known if isinstance(value, str))
            if id(node) not in silent and isinstance(node, ast.Constant | ast.JoinedStr) and WORD.search(text):
                yield file.relative_to(SOURCE).with_suffix("").as_posix(), text


def test_options_in_remedies_exist():
    wrong, seen = [], 0
    for place, text in sentences():
        begin = max((start for start in WHERE if place.startswith(start)), key=len, default=None)
        for word in set(WORD.findall(text)) - QUOTED:
            seen += 1
            named = [name for name in re.findall(r"d2o (\w+)", text[: text.index(word)]) if name in COMMANDS]
            shown_by = named[-1:] or (WHERE[begin] if begin else ())  # the sentence may say whose it is
            if OTHERS.get(word) == place:
                shown_by = [command for command in shown_by if word in options(command)]
                assert shown_by, (place, word)
            wrong += [(place, word, command) for command in shown_by if word not in options(command)]
            if not begin and not named:
                wrong.append((place, word, "which command shows this? add a row to WHERE"))
    assert seen > 30 and not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("name", ["d2o-ff", "digits-pretrian", "cifar10-d2of"])
def test_a_recipe_that_is_offered_exists(name, capsys):
    assert run(["recipes", name]) == 2
    (offered,) = re.findall(r"did you mean '([^']*)'", capsys.readouterr().err)
    assert offered in RECIPES and run(["recipes", offered]) == 0


def test_a_command_that_is_offered_exists(capsys):
    for name in ("fintune", "evalute", "samples", "serv", "export2", "pretrian"):
        assert run([name]) == 2
        (offered,) = re.findall(r"did you mean '?(\w+)", capsys.readouterr().err)
        assert offered in COMMANDS and offered not in GONE


def test_a_study_that_is_offered_exists(capsys):
    assert run(["analyze", "spectra"]) == 2
    assert "'spectrum'" in capsys.readouterr().err


def test_nearest_offers_known_words_alone():
    for word in ("", "a", "sigma", "sigma_mean2", "\x1b[31m", "x" * 1000):
        found = re.findall(r"did you mean '([^']*)'", nearest(word, ["sigma_mean", "weight"]))
        assert set(found) <= {"sigma_mean", "weight"}
