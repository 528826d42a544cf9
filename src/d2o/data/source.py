"""A `Source`: images as they are stored, before any is decoded, and what the readers of all formats share."""

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from d2o.errors import LONGEST, describe, printable

LABEL_NAMES = ("labels", "label", "y", "fine_label", "class", "target")
MOST_CLASSES = 1 << 20  # a larger label is not a class number
LFS = b"version https://git-lfs"
TIFF = (b"II", b"MM")  # how it begins
LARGEST = 1 << 26  # bytes of an image file
MOST_IMAGES = 1 << 22  # of an array or table, each with a name and a label
ROOM, MOST_PACKED = 1 << 29, 8  # bytes that arrays may take, however small they are packed; beyond, how often the file
DAMAGED = (OSError, EOFError, SyntaxError, RuntimeError, MemoryError, zlib.error, zipfile.BadZipFile)
"""What libraries raise for files that are broken, encrypted or of an unknown kind."""


@dataclass(frozen=True)
class Captions:
    """Texts that say what images show: `read(i)` returns those of image i as stored; `origin` says where they stand."""

    origin: str
    read: Callable[[int], Any]


@dataclass(frozen=True)
class Source:
    """Images as they are stored.

    `open(i)` returns image i as an encoded file or as uint8 pixels [H, W, C]; `names[i]` names it in errors; `labels`
    are the class numbers as stored, not yet checked, or None. `classes` are names of the numbers, where there are any;
    not `numbered`, the numbers only count the sorted names. `ignored` says in words what else is there. Where there are
    `captions`, each image has at least one. `attribution` names those whom users of the images have to name.
    """

    path: str
    names: Sequence[str]
    open: Callable[[int], IO[bytes] | np.ndarray]
    labels: Sequence[Any] | np.ndarray | None
    classes: Mapping[int, str] = field(default_factory=dict)
    numbered: bool = True
    ignored: Sequence[str] = ()
    captions: Captions | None = None
    attribution: str = ""

    def image(self, index: int) -> str:
        return printable(f"{self.names[index]} in {self.path}")


class LabelError(ValueError):
    """What is wrong with labels, and what mends it; without a full stop, since doing without labels may be added."""


@contextmanager
def name_damage(path: str | Path, remedy: str) -> Iterator[None]:
    """Turn whatever libraries raise for a broken file into a ValueError that names the file and the remedy."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({describe(error)}); {remedy}.") from error


def list_names(names: Iterable[str]) -> str:
    return printable(", ".join(names))[:LONGEST]


def check_room(files: Iterable[str | Path], packed: int, unpacked: int) -> None:
    """Raise OSError for data that take far more memory than disk: a bomb, or a file with holes."""
    stored = sum(Path(file).stat().st_blocks for file in files) * 512
    if unpacked > max(ROOM, MOST_PACKED * min(packed, stored)):
        raise OSError(f"unpacked it would take {unpacked:,} bytes, suspiciously many for its size")


def wants_labels(path: str | Path, labels: str, *others: str) -> bool:
    """Return whether labels are wanted of a format in which they have no name to choose by."""
    if labels not in (known := ("auto", "none", *others)):
        raise ValueError(f"{path} has no labels named {labels!r} to choose; use --labels {' or '.join(known)}.")
    return labels != "none"


def choose_labels(path: Path, labels: str, columns: Sequence[str]) -> str | None:
    """Return the name of the array or column of labels, or None."""
    if labels == "auto":
        return next((name for name in LABEL_NAMES if name in columns), None)
    if labels != "none" and labels not in columns:
        raise ValueError(f"{path} has no labels named {labels!r}, only {list_names(columns)}; choose another --labels.")
    return None if labels == "none" else labels
