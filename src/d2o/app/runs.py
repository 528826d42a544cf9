"""Run directories as the page sees them: logs, read again while they grow. Nothing outside one folder is opened."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOG = "metrics.jsonl"
DEPTHS = (LOG, f"*/{LOG}", f"*/*/{LOG}", f"*/*/*/{LOG}")
LARGEST_LOG = 64 * 2**20
POINTS = 600
"""Points of a curve; a longer log is thinned."""
STILL = 60
"""Seconds after which a log that does not grow is not called live."""


@dataclass(frozen=True)
class Log:
    """What a run's log holds so far."""

    losses: list[dict[str, Any]]
    """{"images": thousand images seen, "loss": value, "network": whose}"""
    evaluations: list[dict[str, Any]]
    """One a row: the numbers of an evaluation, with `images`."""
    images: int
    seconds: float
    duration: int | None
    growing: bool
    samples: Path | None
    """The newest grid of samples."""


def runs_in(folder: Path) -> list[str]:
    """Return the names of the runs in a folder and up to three folders below it, the newest first."""
    found = [file for pattern in DEPTHS for file in folder.glob(pattern) if inside(folder, file)]
    newest = sorted(found, key=lambda file: file.stat().st_mtime, reverse=True)
    return [str(file.parent.relative_to(folder)) for file in newest]


def inside(folder: Path, file: Path) -> bool:
    """Return whether a file exists and lies within a folder, also after links are followed."""
    try:
        return file.is_file() and file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def place_of(folder: Path, name: Any) -> Path:
    """Return a run's directory; a name that is not listed is a ValueError."""
    names = runs_in(folder)
    if not isinstance(name, str) or name not in names:
        raise ValueError(f"There is no run {str(name)[:100]!r} in {folder.name or folder}.")
    return folder / name


def changed(folder: Path, name: Any) -> tuple[str, float, int]:
    """Return what differs as soon as a run's log has grown."""
    state = (place_of(folder, name) / LOG).stat()
    return str(name), state.st_mtime, state.st_size


def read(folder: Path, name: Any) -> Log:
    """Return a run's log as far as it is written; lines that are not whole are left out."""
    place = place_of(folder, name)
    file = place / LOG
    with file.open("rb") as opened:
        lines = opened.read(LARGEST_LOG).splitlines()
    rows = [row for line in lines if (row := record(line)) is not None]
    losses = [
        {"images": row["images"] / 1000, "loss": value, "network": network}
        for row in rows[:: max(1, math.ceil(len(rows) / POINTS))]
        for network, value in (row.get("loss") or {}).items()
        if network != "r1" and is_number(value)
    ]
    evaluations = [
        {"images": row["images"], **{k: v for k, v in row["evaluation"].items() if k != "images"}}
        for row in rows
        if isinstance(row.get("evaluation"), dict)
    ]
    recipe = record((place / "recipe.json").read_bytes(), "recipe") if inside(folder, place / "recipe.json") else None
    duration = (recipe or {}).get("recipe", {}).get("duration")
    pictures = sorted(picture for picture in place.glob("samples/*.png") if inside(folder, picture))
    return Log(
        losses,
        evaluations,
        images=max((row["images"] for row in rows), default=0),
        seconds=max((row["seconds"] for row in rows if is_number(row.get("seconds"))), default=0.0),
        duration=duration if is_number(duration) else None,
        growing=time.time() - file.stat().st_mtime < STILL and not (place / "ema.safetensors").exists(),
        samples=pictures[-1] if pictures else None,
    )


def record(text: bytes, must: str = "images") -> dict[str, Any] | None:
    """Return a line of JSON as a record that has a certain key, or None for anything else."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or must not in row:
        return None
    kinds = {"images": is_number, "recipe": lambda value: isinstance(value, dict)}
    whole = kinds[must](row[must]) and isinstance(row.get("loss", {}), dict)
    return row if whole else None


def is_number(value: Any) -> bool:
    """Return whether this is a number that can be drawn: finite, and also as a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
