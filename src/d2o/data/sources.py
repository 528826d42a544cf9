"""Where images are stored: a table of readers, one per format; each returns a `Source` and decodes nothing."""

import difflib
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import BaseModel

from d2o.files import find_alike, open_regular, open_zip, parse_json, read_bytes

from .arrays import from_arrays, read_npz
from .parquet import read_parquet
from .source import LARGEST, LFS, TIFF, Source, describe, name_damage, wants_labels

SUFFIXES = tuple(
    ".png .jpg .jpeg .jfif .jpe .jif .webp .bmp .dib .tif .tiff .gif .avif".split()  # noqa: SIM905
)
HIDDEN = re.compile(r"(^|/)(\.|__MACOSX)")
WHOLE = 1 << 20  # a file of a zip up to this many bytes is read at once, which also checks its sum
LISTING = 1 << 27  # bytes of a dataset.json: the labels of millions of images

Reader = Callable[[Path, str], Source]
"""path, labels ("auto", "none" or the name of a column) -> the images there. What is wrong is a ValueError."""


def find(name: str | Path, labels: str = "auto") -> Source:
    """Return the images behind a built-in name, a path or a pattern with * of parquet files.

    `labels` is "auto", "none" or the name of an array or column. Raises ValueError, naming the file and the remedy.
    """
    if str(name) in BUILT_IN:
        return BUILT_IN[str(name)](labels)
    path = Path(name).expanduser()
    try:
        read = find_reader(path)
        if read is not None:
            return read(path, labels)
    except PermissionError as error:
        raise ValueError(f"{error.filename or path} may not be read by this user; change its permissions.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({describe(error)}); move or remove it.") from error
    if not path.exists():
        raise ValueError(describe_missing(path))
    raise ValueError(
        f"{path} is not a data set: give an EDM zip, a folder of images, an .npz or .parquet file, or a built-in name "
        f"({', '.join(BUILT_IN)})."
    )


def find_reader(path: Path) -> Reader | None:
    """Return the reader of a path: by its suffix where READERS has it, else by what it is and how it begins."""
    if path.suffix in READERS:
        return READERS[path.suffix]
    if path.is_dir():
        return read_folder
    if not path.exists():
        return read_pattern if "*" in path.name else None
    with open_regular(path) as file:
        start = file.read(64)
    return next((READERS[key] for key in READERS if isinstance(key, bytes) and start.startswith(key)), None)


def describe_missing(path: Path) -> str:
    near = difflib.get_close_matches(str(path), BUILT_IN, n=1)
    near += [str(path.with_name(name)) for name in find_alike(path, can_open)]
    remedy = f"did you mean {near[0]}?" if near else "give the path of a zip, folder, npz or parquet file."
    return f"There are no images at {path} (built-in names: {', '.join(BUILT_IN)}); {remedy}"


def can_open(path: Path) -> bool:
    """Return whether there are images at a path, as far as can be told at once."""
    if path.is_dir():
        endings = (*SUFFIXES, ".parquet")
        return any(name.lower().endswith(endings) for _, _, names in os.walk(path) for name in names)
    try:
        return path.is_file() and find_reader(path) is not None and bool(find(path, "none").names)
    except (ValueError, OSError):
        return False


def read_digits(labels: str) -> Source:
    """Read scikit-learn's 8x8 digits from its file: importing scikit-learn takes longer than a short run."""
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    pixels = np.floor(table[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16) + 0.5).astype(np.uint8)
    return from_arrays("digits", pixels, table[:, -1].astype(np.int64) if wants_labels("digits", labels) else None)


def find_images(path: Path, names: Iterable[str]) -> list[str]:
    """Return the sorted names of image files that are not hidden; raises ValueError where there are none."""
    found = sorted(name for name in names if name.lower().endswith(SUFFIXES) and not HIDDEN.search(name))
    if not found:
        raise ValueError(f"{path} contains no images ({', '.join(SUFFIXES)}): give a folder or a zip of images.")
    return found


class Listing(BaseModel):
    """EDM's dataset.json: the label of each image by its relative name."""

    labels: list[tuple[str, Any]] | None


def read_listing(path: Path, text: bytes, names: Sequence[str]) -> list[Any] | None:
    """Return the labels of EDM's dataset.json in the order of `names`; None where it says that there are none."""
    try:
        labels = Listing.model_validate(parse_json(text)).labels
    except ValueError as error:
        wanted = '{"labels": [["name.png", 0], ...]} or null'
        raise ValueError(f"dataset.json in {path} cannot be read; write {wanted}, or add --labels none.") from error
    if labels is None:
        return None
    given = {name.replace("\\", "/"): label for name, label in labels}
    without, unknown = [name for name in names if name not in given], set(given) - set(names)
    if without or unknown:
        what = f"gives no label for {without[0]}" if without else f"labels {min(unknown)}, which is not there"
        raise ValueError(f"dataset.json in {path} {what}; complete it, or ignore it with --labels none.")
    return [given[name] for name in names]


class Archive:
    """A zip that every process opens for itself: processes that share a file move each other's position in it."""

    def __init__(self, path: Path):
        self.path, self.process = path, 0

    def get(self) -> zipfile.ZipFile:
        if self.process != os.getpid():
            self.zip, self.process = open_zip(self.path), os.getpid()
        return self.zip

    def open(self, name: str, most: int = LARGEST) -> IO[bytes]:
        """Open one file of the zip; raises OSError for a bomb."""
        archive = self.get()
        entry = archive.getinfo(name)
        if entry.file_size > most:
            raise OSError(f"unpacked it would take {entry.file_size:,} bytes, more than {most:,}")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise OSError("it is packed by another method than deflate, whose result cannot be bounded")
        file = archive.open(entry)
        assert isinstance(file, zipfile.ZipExtFile)
        if entry.file_size > WHOLE and file.peek(2)[:2] not in TIFF:
            return file
        with file:  # whose sum is checked at its end; a TIFF is read back and forth, each time unpacked from its start
            return io.BytesIO(file.read(entry.file_size))


def read_zip(path: Path, labels: str) -> Source:
    """Read a zip in EDM's layout, or of numpy arrays."""
    archive = Archive(path)
    with name_damage(path, "copy or download it again"):
        entries = archive.get().namelist()
    if entries and all(name.endswith(".npy") for name in entries):
        return read_npz(path, [name.removesuffix(".npy") for name in entries], labels)
    names, found = find_images(path, entries), None
    if "dataset.json" in entries and wants_labels(path, labels):
        with name_damage(path, "repair its dataset.json, or add --labels none"):
            listing = archive.open("dataset.json", LISTING).read()
        found = read_listing(path, listing, names)
    return Source(str(path), names, lambda index: archive.open(names[index]), found)


def list_files(root: Path) -> list[str]:
    """List the files below a folder by their relative names with /, following links but no circle of links."""
    files, seen, waiting = [], set(), [""]
    while waiting:
        prefix = waiting.pop()
        found = (root / prefix).stat()
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry).is_dir()):
                    waiting.append(f"{prefix}{entry.name}/")
                else:
                    files.append(prefix + entry.name)
    return files


def read_folder(path: Path, labels: str) -> Source:
    """Read a folder of image files, labelled by dataset.json or by its sub-folders, or of parquet files."""
    files = list_files(path)
    tables = [path / name for name in sorted(files) if name.endswith(".parquet")]
    if tables:
        return read_parquet(path, tables, labels)
    names, found = find_images(path, files), None
    if wants_labels(path, labels):
        listing = path / "dataset.json"
        found = (
            read_listing(path, read_bytes(listing, LISTING), names) if listing.exists() else number_folders(path, names)
        )
    return Source(str(path), names, lambda index: open_regular(path / names[index], LARGEST), found)


def number_folders(path: Path, names: Sequence[str]) -> list[int] | None:
    """Number the sub-folders in sorted order, as numbers where all of their names are; None where there are none."""
    folders = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(folders))
    if classes == [""]:
        return None
    if "" in classes:
        alone = names[folders.index("")]
        raise ValueError(f"{path} has images in class folders and outside ({alone}); move them, or add --labels none.")
    if all(name.isdecimal() for name in classes):
        classes.sort(key=int)
    number = {name: i for i, name in enumerate(classes)}
    return [number[folder] for folder in folders]


def read_pattern(path: Path, labels: str) -> Source:
    if files := sorted(path.parent.glob(path.name)):
        return read_parquet(path, files, labels)
    raise ValueError(describe_missing(path))


def refuse_pointer(path: Path, _labels: str) -> Source:
    raise ValueError(f"{path} is a git-LFS pointer, not the data; run `git lfs pull`.")


BUILT_IN: dict[str, Callable[[str], Source]] = {"digits": read_digits}
READERS: dict[bytes | str, Reader] = {
    b"PK": read_zip,
    b"PAR1": lambda path, labels: read_parquet(path, [path], labels),
    LFS: refuse_pointer,
}
"""How a file begins (bytes), or the suffix of a name (text) -> what reads it.

A format of your own is a function and a line, `READERS[".h5"] = read_hdf5`, in a module named with `--import`.
"""
