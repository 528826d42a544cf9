"""Tar files: what lies where in them, by their headers; nothing is ever unpacked to the disk."""

import os
import tarfile
from collections.abc import Callable, Iterator
from tarfile import TarInfo
from typing import IO

BLOCK, LONGEST = tarfile.BLOCKSIZE, 1 << 14  # bytes of a header, and of names and remarks before one
EMPTY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)


def is_tar(start: bytes) -> bool:
    """Return whether the first block of a file is that of a tar."""
    return start.startswith(b"ustar", 257)


def read_header(block: bytes) -> TarInfo:
    """Return what a header says; raises tarfile.HeaderError for one that is damaged."""
    return TarInfo.frombuf(block, "utf-8", "surrogateescape")


def list_members(file: IO[bytes]) -> Iterator[TarInfo]:
    """Yield the members of a tar, with their names by PAX and GNU, skipping what they contain.

    Raises OSError, ValueError or HeaderError for what is cut off or damaged, or stored without the holes that it had.
    """
    offset, longer, length = 0, {}, os.fstat(file.fileno()).st_size
    while (block := os.pread(file.fileno(), BLOCK, offset)).count(0) < BLOCK:
        if not block:
            raise OSError("it ends without the mark of its end")
        member = read_header(block)
        extend = EXTENDING.get(member.type)
        if extend is None:
            member.name, member.size = longer.get("path", member.name), int(longer.get("size", member.size))
        member.offset_data, member.size = offset + BLOCK, 0 if member.type in EMPTY else member.size
        if member.size < 0 or member.offset_data + member.size > length:
            raise OSError(f"it ends within {member.name}")
        if member.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in longer):
            raise OSError(f"{member.name} is a sparse file, stored without its holes")
        offset = member.offset_data - -member.size // BLOCK * BLOCK
        if extend is None:
            longer = {}
            yield member
        elif member.size > LONGEST:
            raise OSError(f"a header takes more than {LONGEST:,} bytes")
        else:
            longer |= extend(os.pread(file.fileno(), member.size, member.offset_data))


def parse_pax(content: bytes) -> dict[str, str]:
    """Return the records of a PAX header; each is its own length, a key and a value."""
    records = {}
    while content:
        length = int(content.partition(b" ")[0])
        if length < 1:
            raise ValueError("a PAX header is damaged")
        key, _, value = decode(content[:length]).partition(" ")[2].partition("=")
        records[key], content = value[:-1], content[length:]
    return records


def decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


EXTENDING: dict[bytes, Callable[[bytes], dict[str, str]]] = {
    tarfile.XHDTYPE: parse_pax,
    tarfile.SOLARIS_XHDTYPE: parse_pax,
    tarfile.GNUTYPE_LONGNAME: lambda content: {"path": decode(content.partition(b"\0")[0])},
    tarfile.GNUTYPE_LONGLINK: lambda _: {},
    tarfile.XGLTYPE: lambda _: {},  # of all members: comments
}
"""Headers before a file's own -> what they say of it."""
