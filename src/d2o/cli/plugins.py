"""`--import FILE_OR_MODULE`: the user's own code, which adds networks, objectives, recipes ... to d2o's tables.

The tables are dictionaries: backbones.BACKBONES, diffusion.families.PRECONDITIONINGS, objectives.OBJECTIVES,
discriminators.DISCRIMINATORS, training.recipes.RECIPES and data.sources.READERS. Only what is named here is imported;
nothing that stands in a checkpoint is.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from d2o.errors import LONGEST

OPTION = "--import"
IMPORTED: list[str] = []
"""What this command was told to import."""
FOLDERS: set[Path] = set()
"""Of what was imported: errors from there are the user's own."""


def import_all(arguments: Sequence[str]) -> list[str]:
    """Import what the arguments name, and return the others."""
    names, rest = split_imports(arguments)
    for name in names:
        import_plugin(name)
    IMPORTED[:] = names
    return rest


def split_imports(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what is to be imported, and the arguments without it; ValueError for the option without a value."""
    names, rest = [], []
    words = iter(arguments)
    for word in words:
        if word == OPTION:
            names.append(next(words, ""))
        elif word.startswith(f"{OPTION}="):
            names.append(word.partition("=")[2])
        else:
            rest.append(word)
    if "" in names:
        raise ValueError(f"{OPTION} needs a value: a file such as mine.py, or the name of a module.")
    return names, rest


def import_plugin(name: str) -> None:
    """Import a file (NAME.py, or a path) or a module; all that goes wrong is a ValueError of one sentence."""
    is_file = name.endswith(".py") or os.sep in name
    if is_file and not Path(name).is_file():
        raise ValueError(f"{OPTION} {name}: there is no such file.")
    try:
        import_file(Path(name)) if is_file else import_module(name)
    except ModuleNotFoundError as error:
        if is_file or error.name != name.partition(".")[0]:
            raise ValueError(describe(name, error)) from error
        near = f"did you mean {name}.py?" if Path(f"{name}.py").exists() else "give a file, or set PYTHONPATH."
        raise ValueError(f"{OPTION} {name}: there is no such module; {near}") from error
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ValueError(describe(name, error)) from error


def import_file(file: Path) -> None:
    """Run a file as a module; it may import what lies beside it."""
    folder = file.resolve().parent
    sys.path.append(str(folder))
    FOLDERS.add(folder)
    name = f"imported_{file.stem}"
    spec = spec_from_file_location(name, file.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    sys.modules[name] = module = module_from_spec(spec)  # dataclasses look their module up there
    spec.loader.exec_module(module)


def describe(name: str, error: BaseException) -> str:
    """Return one sentence: what went wrong, and in which line of the user's code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    own = [frame for frame in frames if frame.filename != __file__]
    file = own[0].filename if own else name
    line = [frame.lineno for frame in own if frame.filename == file][-1] if own else 0
    if isinstance(error, SyntaxError):
        file, line = error.filename, error.lineno
    what = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    return f"{OPTION} {name} fails at {file}, line {line}: {type(error).__name__}: {what}."


def blame(error: BaseException) -> str | None:
    """Return one sentence about an error that came from a file beside an imported one, and from which line; or None."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).parent in FOLDERS]
    if not own:
        return None
    what = " ".join(str(error).split())[:LONGEST]
    return f"{own[-1].filename}, line {own[-1].lineno}, fails: {type(error).__name__}: {what} (D2O_TRACEBACK=1: all)."
