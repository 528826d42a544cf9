"""Hostile data: what is no file, what unpacks to more than it says, counts in millions, or refers to itself."""

import bz2
import io
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
from PIL import Image

from .making import encode, make_folder, make_parquet, random_pixels

GOOD = encode(random_pixels()[0])
HOLES = 1 << 33  # bytes of a file that takes none on disk


def sparse(path: Path, size: int, start: bytes = b"", end: bytes = b"") -> Path:
    """Make a file that is nearly all hole."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
        file.seek(-len(end) or 0, os.SEEK_END)
        file.write(end)
    return path


def pack(piece: bytes, times: int) -> bytes:
    """Return what a piece, so many times, is deflated to, by deflating it once."""
    packer = zlib.compressobj(9, wbits=-15)
    once = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    return once * times + packer.flush()


def end_of_zip(size: int, offset: int = 4, count: int = 1) -> bytes:
    return b"PK\5\6" + struct.pack("<4H2IH", 0, 0, count, count, size, offset, 0)


def raw_zip(path: Path, name: str, packed: bytes, size: int, method: int = 8, flags: int = 0) -> Path:
    """Write a zip of one entry, of which everything may be a lie."""
    common = struct.pack("<HHHHIIIHH", flags, method, 0, 0, 0, len(packed), size, len(name), 0)
    local = b"PK\3\4" + struct.pack("<H", 20) + common + name.encode() + packed
    central = b"PK\1\2" + struct.pack("<HH", 20, 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    path.write_bytes(local + central + end_of_zip(len(central), len(local)))
    return path


def with_image(path: Path) -> Path:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.png", GOOD)
    return path


def many_entries(path: Path, count: int) -> Path:
    central = b"PK\1\2" + struct.pack("<HHHHHHIIIHHHHHII", *(20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)) + b"a"
    end = end_of_zip(count * len(central), 4, 0xFFFE)
    path.write_bytes(b"PK\3\4" + central * count + end)
    return path


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\2\0" + struct.pack("<I", len(header)) + header.encode() + data


def packed_array(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def described(shape: object, kind: object = "|u1") -> bytes:
    return npy(f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}", bytes(64))


def arrays(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def listed(folder: Path, listing: bytes) -> Path:
    return make_folder(folder, {"a.png": GOOD, "dataset.json": listing})


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    rows = zlib.compress(bytes(9 * 8))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def saved(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or Image.new("RGB", (8, 8))).save(buffer, kind, **options)
    return buffer.getvalue()


def directory(tags: list[tuple[int, int, int, int]], following: int = 0, behind: bytes = b"") -> bytes:
    """Return a TIFF of one directory of (tag, type, count, value or offset)."""
    rows = b"".join(struct.pack("<HHII", *row) for row in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + rows + struct.pack("<I", following) + behind


def plain_tiff(side: int = 8, strips: tuple[int, int] = (1, 200), following: int = 0, behind: bytes = b"") -> bytes:
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    return directory([*tags, (273, 3, *strips), (278, 4, 1, side), (279, 4, 1, 64)], following, behind)


def overlapping(count: int, size: int) -> bytes:
    """Return EXIF data of entries that all refer to the same bytes."""
    return directory([(tag + 1000, 7, size - 20, 8) for tag in range(count)]).ljust(size, b"\0")


def passes(side: int, count: int) -> bytes:
    """Return a progressive JPEG of many passes over nothing."""
    content = saved("JPEG", Image.new("RGB", (side, side)), progressive=True, subsampling=0)
    last = content[content.rindex(b"\xff\xc4", 0, content.rindex(b"\xff\xda")) : -2]
    return content[:-2] + last * count + b"\xff\xd9"


def segments(kind: int, content: bytes, count: int) -> bytes:
    return b"\xff\xd8" + (b"\xff" + bytes([kind]) + struct.pack(">H", len(content) + 2) + content) * count + b"\xff\xd9"


def gif(*extensions: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    content = saved("GIF", Image.new("L", (8, 8)))
    place = content.index(b"\x2c", 13)
    head = content[:6] + struct.pack("<HH", *size) + content[10:place]
    return head + b"".join(extensions) + b"\x2c\0\0\0\0" + struct.pack("<HH", *size) + content[place + 9 :]


def resized_avif(side: int) -> bytes:
    content = saved("AVIF", Image.new("RGB", (64, 64)))
    return content.replace(struct.pack(">II", 64, 64), struct.pack(">II", side, side))


def cells(values: Any, kind: Any = None) -> Callable[[Path], Path]:
    return lambda folder: make_parquet(folder / "a.parquet", {"image": arrow.array(values, kind)})


RECORD = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])


def outside(name: str) -> Callable[[Path], Path]:
    return cells([{"bytes": None, "path": name}], RECORD)


def same_value(path: Path, size: int, count: int) -> Path:
    """Write a table whose rows all are one value, which is stored once."""
    indices, value = arrow.array(np.zeros(count, np.int32)), arrow.array([bytes(size)])
    column = arrow.DictionaryArray.from_arrays(indices, value)
    parquet.write_table(arrow.table({"image": column}), path, compression="zstd", store_schema=False)
    return path


def groups(path: Path, content: bytes, count: int) -> Path:
    table = arrow.table({"image": arrow.array([content])})
    with parquet.ParquetWriter(
        path, table.schema, compression="zstd", use_dictionary=False, write_statistics=False
    ) as writer:
        for _ in range(count):
            writer.write_table(table)
    return path


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def beside(folder: Path, files: dict[str, bytes], name: str, make: Callable[[Path], None]) -> Path:
    make_folder(folder, files)
    make(folder / name)
    return folder


def deep(folder: Path, name: str, count: int) -> Path:
    """Make folders in one another, of which the whole path may be longer than the system allows."""
    folder.mkdir(exist_ok=True)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(count):
        os.mkdir(name, dir_fd=here)
        here, above = os.open(name, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    with os.fdopen(os.open("a.png", os.O_CREAT | os.O_WRONLY, dir_fd=here), "wb") as file:
        file.write(GOOD)
    os.close(here)
    return folder


def image(content: Callable[[], bytes], name: str = "a.png") -> Callable[[Path], Path]:
    return lambda folder: make_folder(folder, {name: content()})


def packed_image(content: Callable[[], bytes]) -> Callable[[Path], Path]:
    """Return what makes a zip of one deflated image."""

    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.png", content())
        return folder / "a.zip"

    return make


def bomb(path: Path) -> Path:
    return raw_zip(path, "a.png", bz2.compress(bytes(8 << 20)), 1000, method=12)


def hole(path: Path) -> Path:
    """Write an array file of which the array is a hole, and takes nothing on disk."""
    head = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4000, 1000, 1000), }")
    raw_zip(path, "images.npy", head, 4_000_000_000)
    content = path.read_bytes().replace(
        struct.pack("<HIII", 8, 0, 0, len(head)), struct.pack("<HIII", 0, 0, 0, 4_000_000_000)
    )
    place = content.index(b"PK\1\2")
    end = content[place:-6] + struct.pack("<IH", 4_000_000_000, 0)
    return sparse(path, 4_000_000_000 + len(end), content[:place], end)


def saved_arrays(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(folder / "a.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return folder / "a.npz"


def webp(side: int) -> bytes:
    content = saved("WEBP", Image.new("RGB", (16, 16)), lossless=True)
    place = content.index(b"VP8L") + 9
    bits = int.from_bytes(content[place : place + 4], "little") >> 28 << 28 | side - 1 | (side - 1) << 14
    return content[:place] + bits.to_bytes(4, "little") + content[place + 4 :]


def twice(path: Path) -> Path:
    table = arrow.table([arrow.array([GOOD])] * 2, names=["image", "image"])
    parquet.write_table(table, path)
    return path
