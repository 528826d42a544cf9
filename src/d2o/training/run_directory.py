"""A run's directory: which run it belongs to, its lock, its checkpoints, and what a kill or damage has left behind."""

import json
import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

import d2o
from d2o.checkpoints import native
from d2o.data.datasets import Images
from d2o.errors import CheckpointError, MalformedCheckpointError, name_file
from d2o.files import atomic, explain_refusal, link_or_copy, open_regular, parse_json, read_bytes

from .recipe import Recipe, Stages, from_dict, to_dict

LOCK = ".lock"
"""An empty file that a run locks while it trains; the system releases it when the process ends."""
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "previous.safetensors"
NUMBERS = ("images", "iteration", "skipped", "seconds", "best", "evaluation")
"""What a checkpoint says beside its tensors; `best` is the lowest KID so far."""
MOST_RECIPE, MOST_LINE, LOG_END = 16 << 20, 1 << 20, 4 << 20
"""Bytes of a recipe.json, of a line of the log, and of its end, in which the newest checkpoint's line is looked for."""
log = logging.getLogger("d2o")
CONTENTS = {"data.name": "data.fingerprint", "data": "fingerprint"}
"""Where records of a run, or of a result, keep the name of their data -> where they keep its fingerprint."""

EDMS_NUMBERS = {"sigma": 80.0, "sigma_mean": -1.2, "sigma_deviation": 1.2, "sigma_data": 0.5}
"""What 0.1.0 wrote into every objective where the family decides now."""


def claim(
    directory: Path, recipe: Recipe | Stages, origin: dict[str, Any], images: Images, accept_data: bool = False
) -> AbstractContextManager[Any]:
    """Make the directory this run's own, or recognise it as the same run; the context holds its lock.

    With `accept_data` the run may go on with other images, and always to another duration. Raises ValueError for a
    directory that contains another run or something else, or in which a run is training.
    """
    data = {
        "name": images.name,
        "images": len(images),
        "shape": list(images.shape),
        "classes": images.num_classes,
        "fingerprint": images.fingerprint,
    }
    if attribution := images.cache.decode.source.attribution:
        data["attribution"] = attribution
    request = {"d2o": d2o.__version__, "recipe": to_dict(recipe), "data": data, **origin}
    file, lock, accepted = directory / "recipe.json", directory / LOCK, False
    if os.path.lexists(file):
        before = read_request(file)
        if lasting := may_last(recipe, before["recipe"]):
            before["recipe"]["duration"] = recipe.duration
        asked = [{**one, "d2o": None} for one in (before, request)]
        if found := list_differences(*asked):
            others = list_differences(*({**one, "data": list_sizes(one.get("data"))} for one in asked))
            if not (accepted := accept_data and not others):
                more = f" (and {len(found) - 1} more differ)" if len(found) > 1 else ""
                remedy = "" if others else ", or continue with these images, with --accept-data"
                raise ValueError(
                    f"{directory} contains another run: {(others or found)[0]}{more}; choose another directory{remedy}."
                )
            log.info("%s continues with other images: %s.", directory, "; ".join(found))
        if lasting:
            check_duration(directory, recipe)
            accepted = True
    elif directory.exists() and (
        not directory.is_dir() or set(directory.iterdir()) - find_leftovers(directory) - {lock}
    ):
        raise ValueError(f"{directory} exists and is not a d2o run; choose another output directory.")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        context = FileLock(lock, timeout=0, thread_local=False).acquire()
    except Timeout:
        raise ValueError(f"A run is active in {directory}: wait for its end, or choose another directory.") from None
    if accepted or not file.exists():
        with atomic(file) as temporary:
            temporary.write_text(json.dumps(request, indent=2) + "\n")
    for leftover in find_leftovers(directory):
        leftover.unlink()
    return context


def may_last(recipe: Recipe | Stages, before: Mapping[str, Any]) -> bool:
    """Return whether a recipe is to last longer, or shorter, than it was asked to, and what it learns allows that."""
    fixed = isinstance(recipe, Stages) or any(objective.starts for objective in recipe.objectives)
    return not fixed and before.get("duration") not in (None, recipe.duration)


def check_duration(directory: Path, recipe: Recipe | Stages) -> None:
    """Say how a run goes on to another duration; ValueError where it has seen more images already."""
    assert isinstance(recipe, Recipe)
    checkpoint, wanted = directory / CHECKPOINT, recipe.duration
    seen = native.read_header(checkpoint)["images"] if checkpoint.is_file() else 0
    if wanted <= seen - recipe.batch_size:
        remedy = f"ask for {seen:,} or more, or choose another directory"
        raise ValueError(f"{directory} has seen {seen:,} images already, more than --images {wanted:,}: {remedy}.")
    how = "as if started with this length"
    if recipe.learning_rate_decay != "constant":
        how = f"from here on its learning rate decays ({recipe.learning_rate_decay}) by the schedule of the new length"
    log.info("%s continues from %s images to %s: %s.", directory, f"{seen:,}", f"{wanted:,}", how)


def read_request(file: Path) -> dict[str, Any]:
    """Return what a run was asked for; a recipe of an older version gets the fields that were added since."""
    try:
        found = parse_json(read_bytes(file, MOST_RECIPE))
        return {**found, "recipe": to_dict(from_dict(found["recipe"]))}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} cannot be read ({error}): repair it, or choose another directory.") from error


def list_sizes(data: Any) -> Any:
    """Return what other images must share with those that a run began with, since its networks depend on it."""
    return {name: data.get(name) for name in ("shape", "classes")} if isinstance(data, dict) else data


def list_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return sentences on where two requests differ; the contents of data come last.

    Data of equal fingerprints are the same, however they are called. Records of older versions have no fingerprint, and
    some not even a name of the data: there it is not compared.
    """
    old, new = flatten(old), flatten(new)
    keys = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and not is_left_open(old, new, key)}
    for name, content in CONTENTS.items():
        known = content in old and content in new
        if not known:
            keys.discard(content)
        if known and content not in keys:
            keys -= {name, "data.classes", "data.attribution"}  # 0.1.0 counted classes by the largest label
        if not (name in old and name in new):
            keys.discard(name)
    found = [f"its {key} is {old.get(key)}, not {new.get(key)}" for key in sorted(keys - {*CONTENTS.values()})]
    return found + [
        f"{new.get(name, 'the data')} has other images, labels or captions than it had then"
        for name, content in CONTENTS.items()
        if content in keys
    ]


def is_left_open(old: dict[str, Any], new: dict[str, Any], key: str) -> bool:
    """Return whether a number that 0.1.0 wrote is now left to the family, EDM's then."""
    return new.get(key) is None and old.get(key) == EDMS_NUMBERS.get(key.rpartition(".")[2])


def find_leftovers(directory: Path) -> set[Path]:
    """Return the temporary files that a kill has left behind."""
    hidden = [*directory.glob(".*"), *(directory / "samples").glob(".*")]
    return {path for path in hidden if re.fullmatch(r"\..+-[0-9a-f]{8}(\.\w+)?", path.name)}


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested JSON by dotted path."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if not children:
        return {path: tree}
    return {k: v for name, child in children for k, v in flatten(child, f"{path}.{name}".lstrip(".")).items()}


State = tuple[dict[str, Tensor], dict[str, Any]]
"""All that continues a run: tensors by name, NUMBERS, and the `base` that has the frozen ones, or None."""


def read_state(file: Path) -> State:
    if not file.is_file():
        raise MalformedCheckpointError(f"{file} is not a file.")
    tensors, spec = native.read(file)
    with name_file(file):
        if spec.get("content") != "run":
            raise ValueError("it is not the checkpoint of a run")
        match spec.get("base"):
            case None | {"from": str(), "sha256": str()} as base:
                return tensors, {**{name: spec[name] for name in NUMBERS}, "base": base}
        raise ValueError("it does not say which model it is a difference to")


def find_state(directory: Path) -> State | None:
    """Return the newest checkpoint of a run that is sound, and remove a damaged one; None where there is none yet."""
    checkpoint, previous = directory / CHECKPOINT, directory / PREVIOUS
    if not os.path.lexists(checkpoint) and not os.path.lexists(previous):
        return None
    try:
        return read_state(checkpoint)
    except CheckpointError as error:
        damage = error
    try:
        state = read_state(previous)
    except CheckpointError:
        remedy = f"remove {CHECKPOINT} and {PREVIOUS} to start the run again, or choose another directory"
        raise ValueError(f"{damage} There is no intact checkpoint before it: {remedy}.") from damage
    with explain_refusal(checkpoint, previous):
        previous.replace(checkpoint)
    log.warning("%s is damaged: the run continues from the previous one, at image %d.", checkpoint, state[1]["images"])
    return state


def replace_checkpoint(directory: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Write a checkpoint, and keep the one before it; at any moment there is a whole one."""
    checkpoint = directory / CHECKPOINT
    if not checkpoint.exists():
        native.write(checkpoint, tensors, content)
        return
    with atomic(directory / PREVIOUS) as kept:
        link_or_copy(kept, checkpoint)
        native.write(checkpoint, tensors, content)


def is_sound(file: Path) -> bool:
    """Return whether a file of our own format is there and has its checksum."""
    try:
        return file.is_file() and bool(native.read(file))
    except CheckpointError:
        return False


def truncate_log(file: Path, images: int) -> None:
    """Drop the log's lines that are newer than the checkpoint, and damage at its end; put aside what is no log."""
    if not os.path.lexists(file):
        return
    kept, size = 0, 0
    if file.is_file():
        with open_regular(file) as content:
            size = file.stat().st_size
            content.seek(max(size - LOG_END, 0))
            end = content.read(LOG_END)
        kept, lines = len(end), end.splitlines(keepends=True)
        while lines and not 0 <= read_line(lines[-1])["images"] <= images:
            kept -= len(lines.pop())
    if file.is_file() and (kept or size <= LOG_END):
        os.truncate(file, max(size - LOG_END, 0) + kept)
        return
    aside = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    file.rename(aside)
    log.warning("%s was not a run's log: it is now %s, and a new log begins.", file, aside)


def read_log(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log; what is damaged is left out."""
    if file.is_file():
        with open_regular(file) as content:
            rows = map(read_line, iter(lambda: content.readline(MOST_LINE), b""))
            yield from (row for row in rows if row["images"] >= 0)


def read_line(line: bytes) -> dict[str, Any]:
    """Return a line of the log, which says how many images had been seen; of a damaged one, -1 images."""
    try:
        row = parse_json(line) if line.startswith(b'{"images":') and line.endswith(b"\n") else None
    except ValueError:
        row = None
    return row if isinstance(row, dict) and type(row.get("images")) is int else {"images": -1}
