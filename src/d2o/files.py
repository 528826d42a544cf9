"""Files on disk: read within limits, written whole or not at all, tried before long work, and hashed."""

import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

UMASK = os.umask(0)
os.umask(UMASK)  # the only way to ask for it is to set it
ENDS = ("/", os.sep)
"""How the name of a folder ends that says so."""
REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "your quota is used up; free some space or choose another place",
    errno.EFBIG: "a file may not become that large here; raise the limit (ulimit -f) or choose another place",
    errno.EROFS: "nothing can be written to this file system; choose another place",
    errno.EIO: "the disk does not accept it; check the disk or choose another place",
}
"""What keeps a file from being written, whichever library notices."""
MOST_VALUES = 4_000_000  # of JSON: the labels of a million images
MOST_ENTRIES = 1_500_000  # of a zip: Python takes about 600 bytes for each
LONGEST_DIRECTORY = 1 << 28  # bytes of the list of a zip's entries


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, of the same suffix, and put it in the place of `path` when all went well.

    The block may create a file or a folder there. If the block fails, `path` stays as it was and nothing is left over.
    A file is on the disk before it takes its place, also if the power fails; of a folder's files the system decides.
    Missing parent folders are made. Raises OSError with a clear sentence when the disk is full or not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        with explain_refusal(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary.is_file():  # some libraries let nobody else read what they write
                temporary.chmod(0o666 & ~UMASK)
                synchronise(temporary)
            temporary.replace(path)
            synchronise(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink()


def link(path: Path, source: Path) -> None:
    """Let `path` be the same file as `source`, or where the file system has no links, a copy of it."""
    with atomic(path) as temporary:
        link_or_copy(temporary, source)


def link_or_copy(path: Path, source: Path) -> None:
    """Do as `link` does where `path` does not exist, and may be left half written."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def append(path: Path, text: str) -> None:
    """Add text to the end of a file, or none of it; raises OSError as `atomic` does."""
    size = path.stat().st_size if path.exists() else 0
    with explain_refusal(path):
        try:
            with path.open("a") as file:
                file.write(text)
        except OSError:
            with suppress(OSError):
                os.truncate(path, size)
            raise


@contextmanager
def explain_refusal(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn the system's refusal to write `path`, or what stands for it meanwhile, into an OSError of one sentence."""
    try:
        yield
    except Exception as error:
        number, reason = find_errno(error), "the system refused"
        if number in REFUSALS:
            reason = REFUSALS[number]
        elif isinstance(error, OSError) and error.filename and is_about(Path(error.filename), path, temporary):
            reason = (error.strerror or reason).lower()
        else:
            raise  # not about this file
        raise OSError(number, f"Cannot write {path}: {reason}.") from error


def find_errno(error: Exception) -> int | None:
    """Return the system's number of an error, which libraries written in Rust (safetensors) only put into the text."""
    hidden = re.search(r"\(os error (\d+)\)", str(error))
    return error.errno if isinstance(error, OSError) else int(hidden[1]) if hidden else None


def is_about(found: Path, path: Path, temporary: Path | None) -> bool:
    return found in (path, *path.parents) or temporary in (found, *found.parents)


def synchronise(path: Path) -> None:
    """Wait until a file or folder is on the disk, as far as its file system knows how to."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in REFUSALS:
            raise


def check_folder(folder: str | Path) -> Path:
    """Return a folder that results can be written to, or made in; raises ValueError, after a trial, where they cannot.

    For whoever works long before writing. Nothing is left behind, not even the folder.
    """
    if not str(folder).strip():
        raise ValueError("The name of the output is empty: name a directory for it.")
    folder = there = Path(folder)
    try:
        ways = (folder, *folder.absolute().parents)
        there = next(place for place in ways if place.exists() or place.is_symlink())
        if not there.is_dir():
            raise ValueError(f"{there} is a file: choose a directory for the results.")
        with tempfile.TemporaryDirectory(prefix=".d2o-", dir=there, ignore_cleanup_errors=True) as trial:
            (Path(trial) / "trial").write_bytes(b"d2o")
    except OSError as error:
        what = f"made in {there}" if there != folder else "written to"
        reason = (error.strerror or "the system refused").lower()
        raise ValueError(f"{folder} cannot be {what} ({reason}): choose another directory.") from error
    return folder


def check_file(path: str | Path) -> Path:
    """Return a path that a file can be written to; raises ValueError, as `check_folder` does, where it cannot."""
    asked, path = str(path), Path(path)
    if not asked.strip():
        raise ValueError("The name of the output is empty: name a file for it.")
    check_folder(path.parent)
    if path.is_dir() or asked.endswith(ENDS):
        raise ValueError(f"{asked} is a directory: name a file for the output.")
    return path


def find_alike(path: Path, would_do: Callable[[Path], bool]) -> list[str]:
    """Return the name beside a missing path that is most like its own, of those that would do, or nothing."""
    beside = [there.name for there in path.parent.iterdir()] if path.parent.is_dir() else []
    close = get_close_matches(path.name, beside, n=100)
    return list(islice((name for name in close if would_do(path.with_name(name))), 1))


def open_regular(path: str | Path, most: int | None = None) -> io.BufferedReader:
    """Open a file for reading; raises OSError for pipes, devices and sockets, which may hang or never end.

    So does a file of more than `most` bytes.
    """
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if most is not None and found.st_size > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return Path(path).open("rb")


def read_bytes(path: str | Path, most: int) -> bytes:
    """Return what a regular file contains; raises OSError where that is more than `most` bytes."""
    with open_regular(path, most) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return content


def parse_json(text: bytes | str) -> Any:
    """Return what JSON says, with or without a byte-order mark; all that can be wrong with it is a ValueError."""
    raw = text.encode() if isinstance(text, str) else text
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES:,} values")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class ZipReader(io.BufferedReader):
    """A zip's file, which is read by pieces but for the list of entries: that is counted before it is unpacked."""

    most: int

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LONGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory claims more than {LONGEST_DIRECTORY:,} bytes")
        content = super().read(size)
        if content.count(b"PK\1\2") > self.most:
            raise zipfile.BadZipFile(f"it has more than {self.most:,} entries")
        return content


def open_zip(path: str | Path, most: int | None = None) -> zipfile.ZipFile:
    """Open a regular file as a zip of at most so many entries, or MOST_ENTRIES; zipfile's errors are many."""
    reader = ZipReader(open_regular(path).detach())
    reader.most = MOST_ENTRIES if most is None else most
    return zipfile.ZipFile(reader)


def sha256_of(path: str | Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
