"""Files on disk: read within limits, written whole or not at all, tried before long work, and hashed."""

import errno
import hashlib
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
from typing import IO, Any, cast

UMASK = os.umask(0)
os.umask(UMASK)  # the only way to ask for it is to set it
LONGEST_LIST = 1 << 23
"""Bytes of a zip's list of its entries: those of 50,000 take about 5 million."""


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


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a file for reading; raises OSError for pipes, devices and sockets, which may hang or never end."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return Path(path).open("rb")


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """Open a zip file whose list of entries is read within limits: a long one is a BadZipFile, as if damaged."""

    class Limited:
        seek, tell = file.seek, file.tell

        def read(self, count: int = -1) -> bytes:
            content = file.read(LONGEST_LIST + 1 if count < 0 else min(count, LONGEST_LIST + 1))
            if len(content) > LONGEST_LIST:
                raise zipfile.BadZipFile(f"its list of entries has more than {LONGEST_LIST:,} bytes")
            return content

    return zipfile.ZipFile(cast("IO[bytes]", Limited()))


def read_bytes(path: str | Path, most: int) -> bytes:
    """Return what a regular file contains; raises OSError where that is more than `most` bytes."""
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return content


def parse_json(text: bytes | str) -> Any:
    """Return what JSON says, with or without a byte-order mark; all that can be wrong with it is a ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sha256_of(path: str | Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
