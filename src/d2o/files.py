"""Files on disk: read within limits, written whole or not at all, tried before long work, and hashed."""

import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

UMASK = os.umask(0)
os.umask(UMASK)  # the only way to ask for it is to set it
MOST_VALUES = 4_000_000  # of JSON: the labels of a million images
MOST_ENTRIES = 1_500_000  # of a zip: Python takes about 600 bytes for each
LONGEST_DIRECTORY = 1 << 28  # bytes of the list of a zip's entries


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, of the same suffix, and put it in the place of `path` when all went well.

    The block may create a file or a folder there. If the block fails, `path` stays as it was and nothing is left over.
    Missing parent folders are made. Raises OSError with a clear sentence when the disk is full or not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_file():  # some libraries let nobody else read what they write
            temporary.chmod(0o666 & ~UMASK)
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; free some space or choose another place"
        elif error.filename and Path(error.filename) in (temporary, path, *path.parents):
            reason = (error.strerror or "the system refused").lower()
        else:
            raise  # not about this file
        raise OSError(error.errno, f"Cannot write {path}: {reason}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink()


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
    if not str(path).strip():
        raise ValueError("The name of the output is empty: name a file for it.")
    path = Path(path)
    check_folder(path.parent)
    if path.is_dir():
        raise ValueError(f"{path} is a directory: name a file for the output.")
    return path


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

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LONGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory claims more than {LONGEST_DIRECTORY:,} bytes")
        content = super().read(size)
        if content.count(b"PK\1\2") > MOST_ENTRIES:
            raise zipfile.BadZipFile(f"it has more than {MOST_ENTRIES:,} entries")
        return content


def open_zip(path: str | Path) -> zipfile.ZipFile:
    """Open a regular file as a zip of not too many entries; zipfile's errors are many."""
    return zipfile.ZipFile(ZipReader(open_regular(path).detach()))


def sha256_of(path: str | Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
