"""Tar shards in WebDataset's layout, read in any order by an index of what lies where; nothing is ever unpacked.

Files whose names are the same up to their first dot belong together: `0001.jpg`, `0001.txt` or `.json`, `0001.cls`.
"""

import io
import os
import re
import sys
import tarfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import numpy as np

from d2o.files import atomic, open_regular
from d2o.tars import BLOCK, list_members, read_header

from .arrays import load_arrays
from .captions import find_beside
from .layout import HIDDEN, SUFFIXES, normalise
from .source import LARGEST, LabelError, Source, name_damage, wants_labels

PLACE = np.dtype([("offset", "<i8"), ("size", "<i4")])
ROW = np.dtype([("image", PLACE), (".txt", PLACE), (".json", PLACE), (".cls", "<i4")])
"""What an index has of each image: where it and its texts lie, and its class; -1 where there is none."""
ABSENT = {"image": (-1, -1), ".txt": (-1, -1), ".json": (-1, -1), ".cls": -1}
PARTS = {**dict.fromkeys(SUFFIXES, "image"), ".txt": ".txt", ".json": ".json", ".cls": ".cls"}
VERSION = 1  # of the index


class Shards(Sequence[str]):
    """Images in tar files, of which only their `rows` are in memory, 40 bytes each; as a sequence, their names."""

    def __init__(self, files: Sequence[Path], rows: Sequence[np.ndarray]):
        self.files, self.rows, self.starts = files, np.concatenate(rows), np.cumsum([0, *map(len, rows)])
        self.open = lru_cache(maxsize=64)(open_regular)

    def find(self, index: int) -> Path:
        return self.files[int(np.searchsorted(self.starts, index, side="right")) - 1]

    def read(self, part: str, index: int) -> bytes:
        """Return the image, .txt or .json of image `index`; threads and processes may share this."""
        offset, size = self.rows[index][part].item()
        if size > LARGEST:
            raise OSError(f"it is larger than {LARGEST:,} bytes")
        content = self.read_at(self.find(index), size, offset)
        if len(content) < size:
            raise OSError("its shard has been truncated")
        return content

    def read_at(self, file: Path, size: int, offset: int) -> bytes:
        shard = self.open(file)  # held until it is read: other threads' shards may take its place
        return os.pread(shard.fileno(), size, offset)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        file, offset = self.find(index), self.rows[index]["image"]["offset"].item()
        try:
            return f"{file.name}/{read_header(self.read_at(file, BLOCK, offset - BLOCK)).name}"
        except (OSError, tarfile.HeaderError):
            return f"image {index} of {file.name}"


def read_shards(path: Path, files: Sequence[Path], labels: str, captions: str = "auto") -> Source:
    """Read the tar shards that `path` stands for."""
    from rich.console import Console
    from rich.progress import Progress

    wanted, total = wants_labels(path, labels), sum(file.stat().st_size for file in files)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(f"Index of {path.name}", total=total)
        indices = [load_index(file, partial(bar.advance, task)) for file in files]
    shards, others = Shards(files, [rows for rows, _ in indices]), sum(others for _, others in indices)
    if not len(shards):
        raise ValueError(f"{path} contains no images ({', '.join(SUFFIXES)}): give shards of images.")
    numbers = shards.rows[".cls"] if wanted and (shards.rows[".cls"] >= 0).any() else None
    if numbers is not None and numbers.min() < 0:
        raise LabelError(f"{shards[int(numbers.argmin())]} in {path} has no class number in a .cls file; add it")
    known = {part: shards.rows[part]["size"] >= 0 for part in (".txt", ".json")}
    used, texts = find_beside(path, shards, known, shards.read, captions)
    counts = {part: int(there.sum()) for part, there in known.items() if part != used} | {"other": others}
    ignored = [f"{count:,} {kind} files" for kind, count in counts.items() if count]
    return Source(
        str(path), shards, lambda index: io.BytesIO(shards.read("image", index)), numbers, {}, True, ignored, texts
    )


def load_index(file: Path, advance: Callable[[int], None]) -> tuple[np.ndarray, int]:
    """Return what lies where in a shard, ROW [N], and the number of other files.

    It is kept beside the shard, or else in the cache, and made again if the shard has changed. Reading it would find
    whatever is wrong with it.
    """
    from d2o.fetch import cache_folder

    found, digest = file.stat(), sha256(os.fsencode(file.resolve())).hexdigest()
    stamp = [VERSION, found.st_size, found.st_mtime_ns]
    places = (file.with_name(f".{file.name}.npz"), cache_folder() / "shards" / f"{digest[:32]}.npz")
    for place in places:
        with suppress(LookupError, TypeError, ValueError):  # there is none, or it is damaged
            index = load_arrays(place, ("rows", "facts"))
            rows, (*known, others) = index["rows"], index["facts"].tolist()
            if known == stamp and rows.dtype == ROW and rows.ndim == 1:
                advance(found.st_size)
                return rows, others
    with name_damage(file, "download it again, or pack whole files instead of links"), open_regular(file) as opened:
        rows, others = make_index(opened, advance)
    for place in places:
        with suppress(OSError), atomic(place) as temporary:
            np.savez(temporary, rows=rows, facts=np.array([*stamp, others]))
            break
    return rows, others


def make_index(file: IO[bytes], advance: Callable[[int], None]) -> tuple[np.ndarray, int]:
    found: dict[str, dict[str, Any]] = {}
    others = done = 0
    for member in list_members(file):
        advance(member.offset_data - done)
        name, done = normalise(member.name), member.offset_data
        folder, slash, base = name.rpartition("/")
        stem, dot, ending = base.partition(".")
        part, row = PARTS.get(dot + ending.lower()), found.setdefault(folder + slash + stem, {})
        if member.isdir() or HIDDEN.search(name):
            continue
        if part is None or part in row:
            others += 1
        elif not member.isfile():
            raise OSError(f"{name} is a link or a device")
        elif part == ".cls":
            number = os.pread(file.fileno(), min(member.size, BLOCK), done).strip()
            row[part] = int(number) if re.fullmatch(rb"[0-9]{1,9}", number) else -1
        else:
            row[part] = (done, min(member.size, LARGEST + 1))
    images = [row for row in found.values() if "image" in row]
    rows = np.array([tuple(row.get(part, absent) for part, absent in ABSENT.items()) for row in images], ROW)
    return rows, others + sum(map(len, found.values())) - sum(map(len, images))
