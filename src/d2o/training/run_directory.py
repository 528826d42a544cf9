"""A run's directory: which run it belongs to, its lock, and what a killed run has left behind."""

import json
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import d2o
from d2o.data.datasets import Images
from d2o.files import atomic

from .recipe import Recipe, from_dict, to_dict

LOCK = ".lock"
"""An empty file that a run locks while it trains; the system releases it when the process ends."""
CONTENTS = {"data.name": "data.fingerprint", "data": "fingerprint"}
"""Where records of a run, or of a result, keep the name of their data -> where they keep its fingerprint."""


def claim(directory: Path, recipe: Recipe, origin: dict[str, Any], images: Images) -> AbstractContextManager[Any]:
    """Make the directory this run's own, or recognise it as the same run; the context holds its lock.

    Raises ValueError for a directory that contains another run or something else, or in which a run is training.
    """
    data = {
        "name": images.name,
        "images": len(images),
        "shape": list(images.shape),
        "classes": images.num_classes,
        "fingerprint": images.fingerprint,
    }
    request = {"d2o": d2o.__version__, "recipe": to_dict(recipe), "data": data, **origin}
    file, lock = directory / "recipe.json", directory / LOCK
    if file.exists():
        if found := list_differences({**read_request(file), "d2o": None}, {**request, "d2o": None}):
            more = f" (and {len(found) - 1} more differ)" if len(found) > 1 else ""
            raise ValueError(f"{directory} contains another run: {found[0]}{more}; choose another directory.")
    elif directory.exists() and (
        not directory.is_dir() or set(directory.iterdir()) - find_leftovers(directory) - {lock}
    ):
        raise ValueError(f"{directory} exists and is not a run of d2o; choose another directory for the output.")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        context = FileLock(lock, timeout=0, thread_local=False).acquire()
    except Timeout:
        raise ValueError(f"A run is at work in {directory}: wait for its end, or choose another directory.") from None
    if not file.exists():
        with atomic(file) as temporary:
            temporary.write_text(json.dumps(request, indent=2) + "\n")
    for leftover in find_leftovers(directory):
        leftover.unlink()
    return context


def read_request(file: Path) -> dict[str, Any]:
    """Return what a run was asked for; a recipe of an older version gets the fields that were added since."""
    try:
        found = json.loads(file.read_text())
        return {**found, "recipe": to_dict(from_dict(found["recipe"]))}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} cannot be read ({error}): mend it, or choose another directory.") from error


def list_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return sentences on where two requests differ; the contents of data come last.

    Data of equal fingerprints are the same, however they are called. Records of older versions have no fingerprint, and
    some not even a name of the data: there it is not compared.
    """
    old, new = flatten(old), flatten(new)
    keys = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    for name, content in CONTENTS.items():
        known = content in old and content in new
        if not known:
            keys.discard(content)
        if known and content not in keys:
            keys -= {name, "data.classes"}  # 0.1.0 counted classes by the largest label
        if not (name in old and name in new):
            keys.discard(name)
    found = [f"its {key} is {old.get(key)}, not {new.get(key)}" for key in sorted(keys - {*CONTENTS.values()})]
    return found + [
        f"{new.get(name, 'the data')} has other images or labels than it had then"
        for name, content in CONTENTS.items()
        if content in keys
    ]


def find_leftovers(directory: Path) -> set[Path]:
    """Return the temporary files that a kill has left behind."""
    return {path for path in directory.glob(".*") if re.fullmatch(r"\..+-[0-9a-f]{8}(\.\w+)?", path.name)}


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested JSON by dotted path."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if not children:
        return {path: tree}
    return {k: v for name, child in children for k, v in flatten(child, f"{path}.{name}".lstrip(".")).items()}


def truncate_log(log: Path, images: int) -> None:
    """Drop the log's lines that are newer than the checkpoint, and a half-written last one."""
    if not log.exists():
        return
    kept = []
    for line in log.read_text().splitlines():
        try:
            if json.loads(line)["images"] <= images:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            break
    with atomic(log) as temporary:
        temporary.write_text("".join(kept))
