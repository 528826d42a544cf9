"""What a study has found: a JSON line for every row, seed, number of images seen, and feature space."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from d2o.files import atomic

KEYS = ("row", "seed", "images", "feature_space", "reference")
HELD_OUT = "held-out real images"
SMALLEST = 1e-4
"""KIDs below this are level: they differ by chance."""


@contextmanager
def alone(place: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock among all processes of a study; without waiting, tell whether it could be had."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the records of a file, none where it is not there; a line that was cut off is left out."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


@dataclass
class Records:
    """The records in a file; those that are written take the place of older ones of the same keys."""

    file: Path
    locks: Path
    keys: tuple[str, ...] = KEYS
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = read_lines(self.file)

    def key(self, record: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(record.get(name) for name in self.keys)

    def write(self, records: list[dict[str, Any]]) -> None:
        """Add records, whole, while other processes may do the same."""
        with alone(self.locks / f"{self.file.stem}-records", wait=True):
            new = {self.key(record): record for record in records}
            self.rows = [row for row in read_lines(self.file) if self.key(row) not in new] + list(new.values())
            order = sorted(self.rows, key=lambda row: tuple(map(str, self.key(row))))
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with atomic(self.file) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in order))

    def has(self, **about: Any) -> bool:
        return any(all(row.get(name) == value for name, value in about.items()) for row in self.rows)


def choose(tried: list[dict[str, Any]], method: str) -> dict[str, Any]:
    """Return the settings that were best in a method's longest trials, by the mean of log KID over the spaces."""
    mine = [one for one in tried if one["row"] == method]
    longest = max((one["images"] for one in mine), default=0)

    def score(trial: dict[str, Any]) -> float:
        return float(np.mean([np.log(max(kid, SMALLEST)) for kid in trial["kid"].values()]))

    return min((one for one in mine if one["images"] == longest), key=score, default={"settings": {}})["settings"]
