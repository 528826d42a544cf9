"""Whatever a stranger's data hold ends in one sentence, within 5 s of processor time and 1 GiB of memory."""

import json
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from . import hostile as h
from .making import encode, make_folder, make_parquet, make_zip, named, random_pixels
from .measuring import BYTES, SECONDS, check, measure

DEEP = b"[" * 1_000_000
Maker = Callable[[Path], Path]

SPECIAL: dict[str, tuple[Maker, str]] = {
    "data that are a pipe": (lambda d: h.beside(d, {}, "pipe", h.pipe) / "pipe", "regular file"),
    "data that are /dev/zero": (lambda d: h.beside(d, {}, "zero", h.zero) / "zero", "regular file"),
    "data that are a socket": (lambda d: h.beside(d, {}, "s", h.unix_socket) / "s", "regular file"),
    "an image that is a pipe": (lambda d: h.beside(d, {}, "a.png", h.pipe), "a.png"),
    "an image that is a socket": (lambda d: h.beside(d, {}, "a.png", h.unix_socket), "a.png"),
    "an image that is /dev/zero": (lambda d: h.beside(d, {}, "a.png", h.zero), "a.png"),
    "an image that is a link to itself": (lambda d: h.beside(d, {}, "a.png", lambda p: p.symlink_to(p)), "a.png"),
    "an image that is nowhere": (lambda d: h.beside(d, {}, "a.png", lambda p: p.symlink_to(d / "b")), "a.png"),
    "labels that are a pipe": (lambda d: h.beside(d, {"a.png": h.GOOD}, "dataset.json", h.pipe), "dataset.json"),
    "labels that are /dev/zero": (lambda d: h.beside(d, {"a.png": h.GOOD}, "dataset.json", h.zero), "dataset.json"),
    "a table that is a pipe": (lambda d: h.beside(d, {}, "a.parquet", h.pipe), "a.parquet"),
    "a table that is /dev/zero": (lambda d: h.beside(d, {}, "a.parquet", h.zero), "a.parquet"),
    "a table whose image is a pipe": (
        lambda d: h.beside(h.outside("p.png")(d).parent, {}, "p.png", h.pipe) / "a.parquet", "regular file",
    ),
    "an array file that is a pipe": (lambda d: h.beside(d, {}, "a.npz", h.pipe) / "a.npz", "a.npz"),
    "folders longer than a path may be": (lambda d: h.deep(d, "x" * 100, 60), "too long"),
    "an image of 8 GiB of nothing": (lambda d: h.sparse(d / "a.png", h.HOLES, h.GOOD[:40]).parent, "larger than"),
    "labels of 8 GiB of nothing": (
        lambda d: h.sparse(h.listed(d, b"") / "dataset.json", h.HOLES).parent, "dataset.json",
    ),
    "a table whose description is 4 GB of nothing": (
        lambda d: h.sparse(d / "a.parquet", h.HOLES, b"PAR1", b"\xff\xff\xff\xffPAR1"), "a.parquet",
    ),
    "a zip whose directory is 4 GB of nothing": (
        lambda d: h.sparse(d / "a.zip", h.HOLES, b"PK\3\4", b"PK\5\6" + h.end_of_zip(2**32 - 2)),
        "a.zip",
    ),
}  # fmt: skip
ZIPS: dict[str, tuple[Maker, str]] = {
    "3,000,000 entries": (lambda d: h.many_entries(d / "a.zip", 3_000_000), "entries"),
    "labels of 4 GB in 4 MB": (
        lambda d: h.with_image(h.raw_zip(d / "a.zip", "dataset.json", h.pack(b" " * 2**20, 4090), 4090 << 20)),
        "dataset.json",
    ),
    "an image of 900 MB": (
        lambda d: h.raw_zip(d / "a.zip", "a.png", h.pack(h.GOOD + bytes(2**20), 900), 900 << 20), "unpacked",
    ),
    "an image that says it is small": (
        lambda d: h.raw_zip(d / "a.zip", "a.png", h.pack(h.GOOD + bytes(2**20), 4000), 1000), "CRC",
    ),
    "an image packed with bzip2": (lambda d: h.bomb(d / "a.zip"), "deflate"),
    "an encrypted image": (lambda d: h.raw_zip(d / "a.zip", "a.png", h.GOOD, len(h.GOOD), 0, flags=1), "password"),
    "a TIFF that is read back and forth": (
        h.packed_image(lambda: h.overlapping(60_000, 50 << 20)), "a.png",
    ),
    "a name that steers the terminal": (lambda d: make_zip(d / "a.zip", {"\x1b[31m\n.png": b"junk"}), "\\x1b[31m\\n"),
}  # fmt: skip
ARRAYS: dict[str, tuple[Maker, str]] = {
    "an array of 100 GB, packed": (
        lambda d: h.raw_zip(d / "a.npz", "images.npy", h.pack(bytes(2**20), 1000), 4_000 << 20), "unpacked",
    ),
    "an array of 4 GB of nothing": (lambda d: h.hole(d / "a.npz"), "unpacked"),
    "an array that is a text": (lambda d: h.arrays(d / "a.npz", images=b"hello"), "a.npz"),
    "an empty array file": (lambda d: h.arrays(d / "a.npz", images=b""), "a.npz"),
    "objects": (lambda d: h.saved_arrays(d, images=np.array([None, {}], object)), "a.npz"),
    "a shape of 10^27": (lambda d: h.arrays(d / "a.npz", images=h.described((10**9, 10**9, 10**9))), "a.npz"),
    "a shape that overflows to 0": (lambda d: h.arrays(d / "a.npz", images=h.described((2**32, 2**32, 1))), "a.npz"),
    "a negative shape": (lambda d: h.arrays(d / "a.npz", images=h.described((-1, 8, 8))), "a.npz"),
    "a shape of texts": (lambda d: h.arrays(d / "a.npz", images=h.described(("8", "8", "8"))), "a.npz"),
    "a deep header": (lambda d: h.arrays(d / "a.npz", images=h.npy("(" * 9000)), "a.npz"),
    "a header of 400 MB": (lambda d: h.arrays(d / "a.npz", images=b"\x93NUMPY\2\0\0\0\0\x18" + bytes(99)), "a.npz"),
    "records": (lambda d: h.saved_arrays(d, images=np.zeros(9, "i4,f8")), "a.npz"),
    "20,000,000 images": (lambda d: h.saved_arrays(d, images=np.zeros((20_000_000, 1, 1), np.uint8)), "20000000"),
    "20,000,000 labels": (
        lambda d: h.saved_arrays(d, images=random_pixels(), labels=np.zeros(20_000_000, np.uint8)), "20000000",
    ),
}  # fmt: skip
LISTINGS: dict[str, tuple[Maker, str]] = {
    name: (lambda d, text=text: h.listed(d, text), "labels none")
    for name, text in {
        "labels of a million brackets": DEEP,
        "labels a million deep": b'{"labels": ' + DEEP,
        "labels of 20,000,000 empty lists": b'{"labels": [' + b"[]," * 20_000_000 + b"[]]}",
        "labels of 30,000,000 numbers": b'{"labels": [' + b"0," * 30_000_000 + b"0]}",
        "labels that are nested": b'{"labels": [["a.png", ' + b"[" * 500 + b"]" * 500 + b"]]}",
        "a label of a million digits": b'{"labels": [["a.png", ' + b"9" * 1_000_000 + b"]]}",
        "names that are numbers": b'{"labels": [[0, 0]]}',
        "labels in no text": b"\xff\xfe\xff{",
        "labels that end early": b'{"labels": [["a.png"',
    }.items()
}
LABELS: dict[str, tuple[Maker, str]] = {
    f"the label {label!r:.20}": (
        lambda d, label=label: h.listed(d, json.dumps({"labels": [["a.png", label]]}).encode()),
        "a.png",
    )
    for label in (2**40, -1, 1.5, float("nan"), float("inf"), "0", True, {"a": 1}, None, "x" * 1_000_000)
}
IMAGES: dict[str, tuple[Maker, str]] = {
    "a PNG of 2^31 x 2^31": (h.image(lambda: h.png(size=(2**31 - 1,) * 2)), "a.png"),
    "a PNG of 8,200 x 8,200": (h.image(lambda: h.png(size=(8200, 8200))), "8200x8200"),
    "a PNG of 3,000,000 pieces": (h.image(lambda: h.png(h.chunk(b"aBCd", b"") * 3_000_000)), "a.png"),
    "a PNG of packed texts": (
        h.image(lambda: h.png(h.chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20))) * 2000)), "a.png",
    ),
    "a PNG of a packed profile": (
        h.image(lambda: h.png(h.chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50 << 20))), size=(9000, 9000))), "a.png",
    ),
    "a PNG of endless EXIF": (h.image(lambda: h.png(h.chunk(b"eXIf", h.overlapping(60_000, 2 << 20)))), "EXIF"),
    "a PNG of packed EXIF": (
        h.image(lambda: h.png(h.chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(
            b"\nexif\n1\n" + h.overlapping(30_000, 400_000).hex().encode())))), "EXIF",
    ),
    "a JPEG of 200 passes": (h.image(lambda: h.passes(4000, 200)), "passes"),
    "a JPEG behind 50 MB of junk": (h.image(lambda: b"\xff\xd8\xff\xfe\0\2" + b"x" * 50_000_000), "a.png"),
    "a JPEG of 10,000,000 pieces": (h.image(lambda: h.segments(0xFE, b"", 10_000_000)), "a.png"),
    "a JPEG of endless EXIF": (
        h.image(lambda: h.segments(0xE1, b"Exif\0\0" + h.overlapping(5000, 65_000), 500)), "a.png",
    ),
    "a GIF of 65,535 x 65,535": (h.image(lambda: h.gif(size=(65535, 65535))), "a.png"),
    "a GIF of a comment of 50 MB": (h.image(lambda: h.gif(b"!\xfe" + (b"\xff" * 256) * 200_000 + b"\0")), "a.png"),
    "a TIFF of 2^31 x 2^31": (h.image(lambda: h.plain_tiff(2**31 - 1)), "a.png"),
    "a TIFF of 10,000,000 strips": (
        h.image(lambda: h.plain_tiff(strips=(10_000_000, 110), behind=bytes(21_000_000))), "a.png",
    ),
    "a TIFF of 60,000 tags": (h.image(lambda: h.overlapping(60_000, 50 << 20)), "a.png"),
    "a WebP of 16,383 x 16,383": (h.image(lambda: h.webp(16383)), "a.png"),
    "an AVIF of 30,000 x 30,000": (h.image(lambda: h.resized_avif(30_000)), "a.png"),
    "an AVIF of 6,000 x 6,000": (h.image(lambda: h.resized_avif(6_000)), "a.png"),
    "a web page": (h.image(lambda: b"<!doctype html>" * 1000), "not one of"),
}  # fmt: skip
TABLES: dict[str, tuple[Maker, str]] = {
    "texts": (h.cells(["a"]), "no column of images"),
    "lists": (h.cells([[b"a"]]), "no column of images"),
    "records of numbers": (h.cells([{"bytes": 7, "path": "a"}]), "no column of images"),
    "records of texts": (h.cells([{"bytes": "a", "path": "a"}]), "no column of images"),
    "records of records": (h.cells([{"bytes": {"bytes": {"bytes": 7}}}]), "no column of images"),
    "paths that are numbers": (h.cells([{"bytes": None, "path": 7}]), "neither bytes nor a path"),
    "nothing": (h.cells([None], h.RECORD), "neither bytes nor a path"),
    "10,000,000 times nothing": (h.cells([None] * 10_000_000, "binary"), "10000000 rows"),
    "a path that leads out": (h.outside("../../etc/passwd"), "outside"),
    "an absolute path": (h.outside("/etc/passwd"), "outside"),
    "a path that contains 0": (h.outside("a\0b"), "row 0"),
    "a path of 100,000 letters": (h.outside("a" * 100_000), "row 0"),
    "one megabyte 1,000,000 times": (lambda d: h.same_value(d / "a.parquet", 1 << 20, 1_000_000), "unpacked"),
    "640 MB in 60 KB": (lambda d: h.groups(d / "a.parquet", bytes(64 << 20), 10), "unpacked"),
    "40,000 groups": (lambda d: h.groups(d / "a.parquet", b"a", 40_000), "a.parquet"),
    "an image of 70 MB": (lambda d: h.groups(d / "a.parquet", h.GOOD + bytes(70 << 20), 1), "larger"),
    "labels that are texts": (
        lambda d: make_parquet(d / "a.parquet", {"image": [h.GOOD], "label": ["cat"]}), "--labels none",
    ),
    "two columns of one name": (lambda d: h.twice(d / "a.parquet"), "a.parquet"),
    "files of other columns": (
        lambda d: make_parquet(h.cells([h.GOOD])(d).with_name("b.parquet"), {"other": [1]}).parent, "columns",
    ),
}  # fmt: skip


ALL = {
    f"{kind}: {name}": case
    for kind, cases in {
        "special": SPECIAL, "zip": ZIPS, "array": ARRAYS, "listing": LISTINGS, "label": LABELS, "image": IMAGES,
        "table": TABLES,
    }.items()
    for name, case in cases.items()
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_hostile_data_are_refused(tmp_path, name):
    make, word = ALL[name]
    (tmp_path / "data").mkdir()
    check("images", make(tmp_path / "data"), "data", word)


STATISTICS = {name: h.packed_array(np.eye(3)[0] if name == "mu" else np.eye(3)) for name in ("mu", "sigma")}
STATISTICS |= {"space": h.packed_array(np.array("lite2@64"))}


@pytest.mark.parametrize(
    "wrong",
    [
        {"mu": b"hello"},
        {"mu": h.described((10**9, 10**9))},
        {"mu": h.packed_array(np.array([None, {}, 1]))},
        {"mu": h.packed_array(np.ones(3) * 1j)},
        {"mu": h.packed_array(np.array(["a", "b", "c"]))},
        {"sigma": h.packed_array(np.zeros(3, "i4,f8"))},
        {"space": h.packed_array(np.array([1, 2]))},
        {"count": h.packed_array(np.array([1, 2]))},
        {"count": h.packed_array(np.array(np.nan))},
        {"features": h.packed_array(np.array("a"))},
    ],
)
def test_hostile_statistics_are_refused(tmp_path, wrong):
    (tmp_path / "data").mkdir()
    check("statistics", h.arrays(tmp_path / "data" / "a.npz", **STATISTICS | wrong), "a.npz")


def test_large_statistics_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    path = h.raw_zip(tmp_path / "data" / "a.npz", "mu.npy", h.pack(bytes(2**20), 1000), 4_000 << 20)
    check("statistics", path, "a.npz", "unpacked")


def test_what_looks_hostile_may_be_honest(tmp_path):
    """A thousand folders deep, circles of links, a photo's profile and comments: these are read."""
    folder = h.deep(tmp_path / "data", "d", 900)
    (folder / "circle").symlink_to(folder)
    make_folder(folder, named(random_pixels()))
    error, seconds, taken = measure("images", folder)
    subprocess.run(["rm", "-rf", folder], check=True)
    assert error is None or "--labels none" in error
    assert seconds < SECONDS and taken < BYTES
    large = Image.effect_noise((800, 800), 99).convert("RGB")
    content = h.saved("JPEG", large, icc_profile=bytes(500_000), comment=b"c" * 60_000, progressive=True, quality=95)
    error, _, _ = measure(
        "images", make_folder(tmp_path / "photos", {"a.jpg": content, "b.png": encode(np.asarray(large))})
    )
    assert error is None
