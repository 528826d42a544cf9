"""A run's directory: whose it is, that one run at a time works in it, and what a killed one has left behind."""

import json
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import d2o
from d2o.pixels.datasets import Images
from d2o.pixels.files import atomic

from .recipe import Recipe, from_dict, to_dict

LOCK = ".lock"
"""An empty file in the directory; a run holds it while it works, and the system lets go of it when the run ends."""


def claim(directory: Path, recipe: Recipe, origin: dict[str, Any], images: Images) -> AbstractContextManager[Any]:
    """Make the directory this run's own, or recognise it as the same run; leave the context to let go of it.

    Raises ValueError for a directory that holds another run or something else, or in which a run is at work.
    """
    data = {"name": images.name, "images": len(images), "shape": list(images.shape), "classes": images.num_classes}
    asked = {"d2o": d2o.__version__, "recipe": to_dict(recipe), "data": data, **origin}
    file = directory / "recipe.json"
    if file.exists():
        old, new = flatten({**stored(file), "d2o": None}), flatten({**asked, "d2o": None})
        differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if differing:
            key = differing[0]
            raise ValueError(
                f"{directory} holds another run: its {key} is {old.get(key)}, not {new.get(key)}"
                f"{f' (and {len(differing) - 1} more differ)' if len(differing) > 1 else ''}; choose another directory."
            )
    elif directory.exists() and (
        not directory.is_dir() or set(directory.iterdir()) - leftovers(directory) - {directory / LOCK}
    ):
        raise ValueError(f"{directory} exists and is not a run of d2o; choose another directory for the output.")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(directory / LOCK, timeout=0, thread_local=False).acquire()
    except Timeout:
        raise ValueError(f"A run is at work in {directory}: wait for its end, or choose another directory.") from None
    if not file.exists():
        with atomic(file) as temporary:
            temporary.write_text(json.dumps(asked, indent=2) + "\n")
    for temporary in leftovers(directory):
        temporary.unlink()
    return held


def stored(file: Path) -> dict[str, Any]:
    """Read what a run was asked for; a recipe of an older version gets the fields that were added since."""
    try:
        found = json.loads(file.read_text())
        return {**found, "recipe": to_dict(from_dict(found["recipe"]))}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} cannot be read ({error}): mend it, or choose another directory.") from error


def leftovers(directory: Path) -> set[Path]:
    """Return the temporary files that a kill has left behind."""
    return {path for path in directory.glob(".*") if re.fullmatch(r"\..+-[0-9a-f]{8}(\.\w+)?", path.name)}


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested JSON by dotted path."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if not children:
        return {path: tree}
    return {k: v for name, child in children for k, v in flatten(child, f"{path}.{name}".lstrip(".")).items()}


def forget_after(log: Path, images: int) -> None:
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
