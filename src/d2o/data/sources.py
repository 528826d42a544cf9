"""Where images are stored: a table of readers, one per format; each returns a `Source` and decodes nothing."""

import difflib
import io
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from d2o.errors import describe
from d2o.files import find_alike, open_regular, open_zip
from d2o.tars import BLOCK, is_tar

from . import shapes
from .arrays import from_arrays, read_npz
from .layout import SPLITS, SUFFIXES, choose_split, count_files, find_places, read_tree
from .parquet import read_parquet
from .shards import read_shards
from .source import LARGEST, LFS, TIFF, Source, name_damage, wants_labels

SHIPPED = Path(__file__).parent / "shipped"  # data that come with d2o, with their licence and whom they are from
WHOLE = 1 << 20  # a file of a zip up to this many bytes is read at once, which also checks its sum
UTF8 = 0x800  # the flag of names that are UTF-8; Python takes others for the code page of DOS

Reader = Callable[..., Source]
"""path, labels ("auto", "none" or the name of a column) -> the images there. What is wrong is a ValueError.

Those in DIVIDED also take the name of a split, or None, and what captions are wanted ("auto", "none" or a name).
"""


def find(
    name: Any, labels: str = "auto", split: str | None = None, captions: str = "auto", most_bytes: int = 4 << 30
) -> Source:
    """Return the images behind a built-in name, a path, a pattern with * of parquet files or tar shards, an object.

    `labels` is "auto", "none", "folders" or the name of an array or column; `split` the name of a split, or "all";
    `captions` are "auto", "none" or the name of a column or key. Raises ValueError, naming the file and the remedy.
    """
    if not isinstance(name, str | Path):
        from .objects import from_objects  # which the command line never needs

        if split is not None or captions not in ("auto", "none"):
            raise ValueError(f"A {type(name).__name__} has no splits and captions to choose: leave them out.")
        return from_objects(name, labels, most_bytes)
    path, source, read = Path(name).expanduser(), None, None
    try:
        if str(name) in BUILT_IN:
            read = BUILT_IN[str(name)]
            source = read(path, labels, split, captions) if read in DIVIDED else read(path, labels)
        elif (read := find_reader(path)) is not None:
            source = read(path, labels, split, captions) if read in DIVIDED else read(path, labels)
    except PermissionError as error:
        raise ValueError(f"{error.filename or path} cannot be read by this user; change its permissions.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({describe(error)}); move or remove it.") from error
    if source is not None:
        if read not in DIVIDED:
            choose_split(path, {}, split)
        if source.captions is None and captions not in ("auto", "none"):
            raise ValueError(f"{path} has no captions named {captions!r}; choose other ones, or --captions none.")
        return replace(source, captions=None) if captions == "none" else source
    if not path.exists():
        raise ValueError(describe_missing(path))
    raise ValueError(
        f"{path} is not a data set: give an EDM zip, a folder of images, an .npz, .parquet or .tar file, or a "
        f"built-in name ({', '.join(BUILT_IN)})."
    )


def find_reader(path: Path) -> Reader | None:
    """Return the reader of a path: by its suffix where READERS has it, else by what it is and how it begins."""
    if path.suffix in READERS:
        return READERS[path.suffix]
    if path.is_dir():
        return read_folder
    if not path.exists():
        return read_files if "*" in path.name else None
    with open_regular(path) as file:
        start = file.read(BLOCK)
    if is_tar(start):
        return read_files
    return next((READERS[key] for key in READERS if isinstance(key, bytes) and start.startswith(key)), None)


def describe_missing(path: Path) -> str:
    near = difflib.get_close_matches(str(path), BUILT_IN, n=1)
    near += [str(path.with_name(name)) for name in find_alike(path, can_open)]
    remedy = f"did you mean {near[0]}?" if near else "give the path of a zip, folder, npz, parquet or tar file."
    return f"There are no images at {path} (built-in names: {', '.join(BUILT_IN)}); {remedy}"


def can_open(path: Path) -> bool:
    """Return whether there are images at a path, as far as can be told at once."""
    if path.is_dir():
        endings = (*SUFFIXES, ".parquet", ".tar")
        return any(name.lower().endswith(endings) for _, _, names in os.walk(path) for name in names)
    try:
        return path.is_file() and find_reader(path) is not None and bool(find(path, "none").names)
    except (ValueError, OSError):
        return False


def read_digits(_: Path, labels: str) -> Source:
    """Read scikit-learn's 8x8 digits from its file: importing scikit-learn takes longer than a short run."""
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    pixels = np.floor(table[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16) + 0.5).astype(np.uint8)
    return from_arrays("digits", pixels, table[:, -1].astype(np.int64) if wants_labels("digits", labels) else None)


def read_drawings(path: Path, labels: str, split: str | None, _captions: str) -> Source:
    """Draw coloured shapes, and say what they are."""
    wants_labels(path, labels)
    sizes = {name: f"{count:,} images" for name, count in shapes.IMAGES.items()}
    return shapes.open_splits(*choose_split(path, sizes, split))


def read_emoji(path: Path, labels: str, split: str | None, captions: str) -> Source:
    """Read the pictures of emoji that come with d2o, of the group that the name says, or all."""
    archive, (_, _, group) = Archive(SHIPPED / "emoji.zip"), str(path).partition("-")
    files = [name for name in archive.get().namelist() if not name.endswith(".png") or f"/{group}" in name]
    return read_tree(path, files, archive.open, labels, split, captions)


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
            raise OSError("it is compressed by a method other than deflate, whose output cannot be bounded")
        file = archive.open(entry)
        assert isinstance(file, zipfile.ZipExtFile)
        if entry.file_size > WHOLE and file.peek(2)[:2] not in TIFF:
            return file
        with file:  # whose sum is checked at its end; a TIFF is read back and forth, each time unpacked from its start
            return io.BytesIO(file.read(entry.file_size))


def read_zip(path: Path, labels: str, split: str | None, captions: str) -> Source:
    """Read a zip of image files, or of numpy arrays."""
    archive = Archive(path)
    with name_damage(path, "copy or download it again"):
        entries = {read_name(entry): entry.filename for entry in archive.get().infolist()}
    if entries and all(name.endswith(".npy") for name in entries):
        source = read_npz(path, [name.removesuffix(".npy") for name in entries], labels)
        choose_split(path, {}, split)
        return source
    return read_tree(path, entries, lambda name: archive.open(entries[name]), labels, split, captions)


def read_name(entry: zipfile.ZipInfo) -> str:
    """Return the name of a file in a zip; macOS writes UTF-8 without saying so."""
    try:
        return entry.filename if entry.flag_bits & UTF8 else entry.filename.encode("cp437").decode()
    except UnicodeError:
        return entry.filename


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


def read_folder(path: Path, labels: str, split: str | None, captions: str) -> Source:
    """Read a folder of image files, or of tar shards or parquet files."""
    files = list_files(path)
    places = find_places(files)
    has_images = any(name.lower().endswith(SUFFIXES) for name in places)
    for suffix, read in PARTED.items():
        parts = [name for name in places if name.endswith(suffix)]
        if parts and not (has_images and suffix == ".tar"):
            source = read_parts(read, path, [path / name for name in parts], labels, split, captions)
            others = count_files(places.keys() - set(parts))
            return replace(source, ignored=[*source.ignored, *([others] if others else [])])
    return read_tree(path, files, lambda name: open_regular(path / name, LARGEST), labels, split, captions)


def read_parts(
    read: Reader, path: Path, files: Sequence[Path], labels: str, split: str | None, captions: str
) -> Source:
    """Read parquet files or tar shards, of one split where their names or folders are those of splits."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(name_split(file.relative_to(path) if path.is_dir() else Path(file.name)), []).append(file)
    if len(splits) - ("other" in splits) < 2 and "other" in splits:
        splits = {}
    chosen, ignored = choose_split(path, {name: f"{len(part)} files" for name, part in splits.items()}, split)
    source = read(path, [file for name in chosen for file in splits[name]] or files, labels, captions)
    return replace(source, ignored=[*source.ignored, *ignored])


def name_split(file: Path) -> str:
    """Return the split of a file, by Hugging Face's names (train-00000-of-00002) or folders."""
    first = file.stem.lower().split("-")[0]
    folders = (folder.lower() for folder in reversed(file.parts[:-1]))
    return first if "-of-" in file.stem or first in SPLITS else next((one for one in folders if one in SPLITS), "other")


def read_files(path: Path, labels: str, split: str | None, captions: str) -> Source:
    """Read the parquet files or tar shards that a path or a pattern with * names."""
    files = [path] if path.exists() else sorted(path.parent.glob(path.name))
    if not files:
        raise ValueError(describe_missing(path))
    with open_regular(files[0]) as file:
        in_tar = files[0].suffix == ".tar" or is_tar(file.read(BLOCK))
    return read_parts(PARTED[".tar" if in_tar else ".parquet"], path, files, labels, split, captions)


def refuse_pointer(path: Path, _labels: str) -> Source:
    raise ValueError(f"{path} is a git-LFS pointer, not the data; run `git lfs pull`.")


BUILT_IN: dict[str, Reader] = {"digits": read_digits, "shapes": read_drawings}
BUILT_IN |= {"emoji": read_emoji, "emoji-smileys": read_emoji}
PARTED: dict[str, Reader] = {".tar": read_shards, ".parquet": read_parquet}
"""Formats of data sets in parts; img2dataset writes both, the images in tar, and lists of them in parquet."""
READERS: dict[bytes | str, Reader] = {b"PK": read_zip, b"PAR1": read_files, LFS: refuse_pointer}
"""How a file begins (bytes), or the suffix of a name (text) -> what reads it.

A format of your own is a function and a line, `READERS[".h5"] = read_hdf5`, in a module named with `--import`.
"""
DIVIDED: set[Reader] = {read_drawings, read_emoji, read_zip, read_folder, read_files}
