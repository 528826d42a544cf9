"""Tar shards in WebDataset's layout, read in any order by an index of what lies where; nothing is ever unpacked.

Files whose names are the same up to their first dot belong together: `0001.jpg`, `0001.txt` or `.json`, `0001.cls`.
"""

import io
import logging
import os
import re
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tarfile import TarInfo
from typing import IO, Any

import numpy as np

from d2o.files import atomic, open_regular

from .arrays import load_arrays
from .captions import find_beside
from .layout import HIDDEN, SUFFIXES, normalise
from .source import LARGEST, MOST_CLASSES, LabelError, Source, name_damage, wants_labels

PLACE = np.dtype([("offset", "<i8"), ("size", "<i4")])
COLUMNS = {"image": PLACE, ".txt": PLACE, ".json": PLACE, ".cls": np.dtype("<i4")}
"""What an index has of each image: where it and its texts lie, and its class; -1 where there is none."""
PARTS = {**dict.fromkeys(SUFFIXES, "image"), **{name: name for name in COLUMNS if name.startswith(".")}}
VERSION = 1  # of the index
BLOCK, LONGEST_NAME = tarfile.BLOCKSIZE, 1 << 16
LONGER = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
WITHOUT_CONTENT = (
    tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
)  # fmt: skip
PATIENCE = 2  # seconds before progress is shown
log = logging.getLogger("d2o")

Index = dict[str, np.ndarray]
"""Of a shard: those of COLUMNS that have values, [N], and `others`: how many files and folders it has besides, [2]."""


def read_shards(path: Path, files: Sequence[Path], labels: str, captions: str = "auto") -> Source:
    """Read the tar shards that `path` stands for; of each image only its place is kept in memory, 12 to 40 bytes."""
    wanted, indices, done = wants_labels(path, labels), [], 0
    with show_progress(path, sum(file.stat().st_size for file in files)) as tell:
        for file in files:
            indices.append(load_index(file, lambda offset, done=done: tell(done + offset)))
            done += file.stat().st_size
    starts = np.cumsum([0, *(len(index["image"]) for index in indices)])
    columns = {name: join(indices, name) for name in COLUMNS if any(name in index for index in indices)}
    if not starts[-1]:
        raise ValueError(f"{path} contains no images ({', '.join(SUFFIXES)}): give shards of images.")
    opened = lru_cache(maxsize=64)(open_regular)

    def find(index: int) -> Path:
        return files[int(np.searchsorted(starts, index, side="right")) - 1]

    def read(name: str, index: int) -> bytes:
        offset, size = columns[name][index].item()
        if size > LARGEST:
            raise OSError(f"it is larger than {LARGEST:,} bytes")
        content = os.pread(opened(find(index)).fileno(), size, offset)  # moves no position that others share
        if len(content) < size:
            raise OSError("its shard has become shorter")
        return content

    def name_image(index: int) -> str:
        header = os.pread(opened(find(index)).fileno(), BLOCK, columns["image"]["offset"][index].item() - BLOCK)
        return f"{find(index).name}/{TarInfo.frombuf(header, 'utf-8', 'surrogateescape').name}"

    names, numbers = Names(int(starts[-1]), name_image), columns.get(".cls") if wanted else None
    if numbers is not None and (numbers < 0).any():
        raise LabelError(f"{names[int(numbers.argmin())]} in {path} has no class number in a .cls file; add it")
    beside = {
        suffix: (columns[suffix]["size"] >= 0, lambda index, suffix=suffix: read(suffix, index))
        for suffix in (".txt", ".json")
        if suffix in columns
    }
    used, texts = find_beside(path, names, beside, captions)
    ignored = [f"{int(known.sum()):,} {suffix} files" for suffix, (known, _) in beside.items() if suffix != used]
    others, folders = np.sum([index["others"] for index in indices], axis=0).tolist()
    ignored += [f"{others:,} other files"] if others else []
    ignored += ["folders in shards (classes are .cls files)"] if folders > len(files) and ".cls" not in columns else []
    return Source(
        str(path), names, lambda index: io.BytesIO(read("image", index)), numbers, ignored=ignored, captions=texts
    )


class Names(Sequence[str]):
    """Names of images, looked up when they are asked for: those of millions would take gigabytes."""

    def __init__(self, count: int, find: Callable[[int], str]):
        self.count, self.find = count, find

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.find(index)
        except (OSError, ValueError, tarfile.HeaderError):
            return f"image {index}"


def join(indices: Sequence[Index], name: str) -> np.ndarray:
    kind = COLUMNS[name]
    return np.concatenate([index.get(name, np.full(len(index["image"]), -1, kind)) for index in indices])


def load_index(file: Path, tell: Callable[[int], None]) -> Index:
    """Return the index of a shard, which is kept beside it, or else in the cache, as long as the shard is the same."""
    found = file.stat()
    stamp = np.array([VERSION, found.st_size, found.st_mtime_ns])
    for place in find_places(file):
        with suppress(ValueError):  # there is none, or it is damaged
            kept = load_arrays(place, [*COLUMNS, "others", "stamp"])
            if np.array_equal(kept.pop("stamp"), stamp) and is_sound(kept):
                return kept
    index = make_index(file, tell)
    for place in find_places(file):
        with suppress(OSError), atomic(place) as temporary:
            np.savez(temporary, allow_pickle=False, stamp=stamp, **index)
            return index
    return index


def find_places(file: Path) -> Iterator[Path]:
    from d2o.fetch import cache_folder

    yield file.with_name(f".{file.name}.npz")
    yield cache_folder() / "shards" / f"{sha256(os.fsencode(file.resolve())).hexdigest()[:32]}.npz"


def is_sound(index: Index) -> bool:
    """Return whether an index has the arrays of one; what they say is tried when it is read."""
    count, columns = len(index["image"]), index.keys() - {"others"}
    fits = all(index[name].dtype == COLUMNS[name] and index[name].shape == (count,) for name in columns)
    return fits and index["others"].shape == (2,) and index["others"].dtype == np.int64


def make_index(path: Path, tell: Callable[[int], None]) -> Index:
    rows: dict[str, dict[str, Any]] = {}
    others = 0
    with name_damage(path, "download it again, or pack whole files, no links"), open_regular(path) as file:
        for member in walk(file):
            tell(member.offset_data)
            name = normalise(member.name)
            if member.isdir() or HIDDEN.search(name):
                continue
            folder, _, base = name.rpartition("/")
            stem, dot, rest = base.partition(".")
            row, part = rows.setdefault(f"{folder}/{stem}", {}), PARTS.get(dot + rest.lower())
            if part is None or part in row:
                others += 1
                continue
            if not member.isfile():
                raise OSError(f"{name} is a link or a device")
            row[part] = (member.offset_data, min(member.size, LARGEST + 1))
            if part == ".cls":
                content = os.pread(file.fileno(), min(member.size, BLOCK), member.offset_data).strip()
                row[part] = int(content) if re.fullmatch(b"[0-9]{1,7}", content) else -1
    images = [row for row in rows.values() if "image" in row]
    others += sum(len(row) for row in rows.values() if "image" not in row)
    folders = len({stem.rpartition("/")[0] for stem, row in rows.items() if "image" in row})
    index: Index = {"others": np.array([others, folders])}
    for name, kind in COLUMNS.items():
        column = np.full(len(images), -1, kind)
        for i, row in enumerate(images):
            column[i] = row.get(name, -1)
        if name == "image" or (column != np.full(1, -1, kind)).any():
            index[name] = column
    return index


def walk(file: IO[bytes]) -> Iterator[TarInfo]:
    """Yield the members of a tar, with their names by PAX and GNU, skipping what they contain.

    Raises OSError or HeaderError for a tar that is cut off, that is damaged, or that leaves out the holes of files.
    """
    offset, longer, length = 0, {}, os.fstat(file.fileno()).st_size
    while (block := os.pread(file.fileno(), BLOCK, offset)).count(0) < BLOCK:
        if len(block) < BLOCK:
            raise OSError("it ends without the mark of its end")
        member = TarInfo.frombuf(block, "utf-8", "surrogateescape")
        extends = member.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, *LONGER)
        member.offset_data = offset + BLOCK
        if not extends:
            member.name, member.size = longer.get("path", member.name), int(longer.get("size", member.size))
        if member.type in WITHOUT_CONTENT:
            member.size = 0
        if member.size < 0 or member.offset_data + member.size > length:
            raise OSError(f"it ends within {member.name}")
        if member.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in longer):
            raise OSError(f"{member.name} is stored without its holes, as a sparse file")
        offset = member.offset_data - -member.size // BLOCK * BLOCK
        if not extends:
            longer = {}
            yield member
        elif member.size > LONGEST_NAME:
            raise OSError(f"a name takes more than {LONGEST_NAME:,} bytes")
        elif member.type != tarfile.XGLTYPE:  # that of all members says nothing of use
            content = os.pread(file.fileno(), member.size, member.offset_data)
            is_name = member.type in LONGER
            longer |= {LONGER[member.type]: decode(content.split(b"\0")[0])} if is_name else parse_pax(content)


def parse_pax(content: bytes) -> dict[str, str]:
    """Return the records of a PAX header: each is its own length, a key and a value."""
    records, at = {}, 0
    while at < len(content):
        length = re.compile(rb"([0-9]{1,5}) ").match(content, at)
        if length is None or not (end := at + int(length[1])) > length.end():
            raise OSError("a PAX header is damaged")
        key, _, value = decode(content[length.end() : end - 1]).partition("=")
        records[key], at = value, end
    return records


def decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


@contextmanager
def show_progress(path: Path, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function that is told how many bytes are done; after two seconds a bar shows it on standard error."""
    began, bar = time.monotonic(), None

    def tell(done: int) -> None:
        nonlocal bar
        if bar is None and time.monotonic() - began > PATIENCE:
            from rich.console import Console
            from rich.progress import Progress

            log.info("%s: the files in its shards are listed, once.", path)
            bar = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
            bar.add_task("Listing shards", total=total)
            bar.start()
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)

    try:
        yield tell
    finally:
        if bar is not None:
            bar.stop()
