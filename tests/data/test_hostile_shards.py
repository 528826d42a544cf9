"""Tars and captions of strangers: a declared error, within 5 s of processor time and 1 GiB, and nothing is unpacked."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from d2o.data.datasets import open_images
from d2o.fetch import CACHE_VARIABLE

from . import hostile as h
from .making import encode, make_folder, make_tar, random_pixels
from .measuring import measure

GOOD = encode(random_pixels()[0])
END = bytes(1024)
BYTES = 1 << 30


def header(name: str = "a.png", size: int = len(GOOD), kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """Return a header, of which everything may be a lie."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = size, kind, link
    return entry.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def with_size(field: bytes) -> bytes:
    """Return a header whose size is these 12 bytes."""
    block = bytearray(header())
    block[124:136] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records: bytes, name: str = "a.png", size: int = len(GOOD)) -> bytes:
    extended = header("pax", len(records), tarfile.XHDTYPE) + padded(records)
    return extended + header(name, size) + padded(GOOD) + END


def sparse_pax() -> bytes:
    return pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n")


TARS: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: END, "no images"),
    "cut off within an image": (lambda: header(size=5000) + GOOD, "ends within a.png"),
    "cut off before its end": (lambda: header() + padded(GOOD), "mark of its end"),
    "cut off within a header": (lambda: header() + padded(GOOD) + header("b.png")[:300], "truncated"),
    "damaged": (lambda: header() + padded(GOOD) + b"x" + header()[1:] + END, "checksum"),
    "a hard link": (lambda: header(size=0, kind=tarfile.LNKTYPE, link="/etc/passwd") + END, "is a link"),
    "a symbolic link": (lambda: header(size=0, kind=tarfile.SYMTYPE, link="../../x") + END, "is a link"),
    "a device": (lambda: header(size=0, kind=tarfile.CHRTYPE) + END, "device"),
    "a caption that is a link": (
        lambda: header() + padded(GOOD) + header("a.txt", 0, tarfile.SYMTYPE, "/etc/passwd") + END, "a.txt is a link",
    ),
    "an image of 8 EiB": (lambda: header(size=1 << 62) + END, "ends within"),
    "an image of a negative size": (lambda: with_size(b"\xff" * 10 + b"\xfe\x00") + END, "ends within"),
    "a size in no number": (lambda: with_size(b"12345678x90\0") + END, "invalid header"),
    "a sparse file of GNU": (lambda: header(kind=tarfile.GNUTYPE_SPARSE) + padded(GOOD) + END, "sparse"),
    "a sparse file of PAX": (sparse_pax, "sparse"),
    "a long name that is cut off": (lambda: header("x", 900, tarfile.GNUTYPE_LONGNAME) + b"a", "ends within"),
    "a name of 4 GB": (lambda: header("x", 1 << 32, tarfile.GNUTYPE_LONGNAME) + END, "ends within"),
    "a name of 40 MB": (
        lambda: header("x", 40 << 20, tarfile.GNUTYPE_LONGNAME) + bytes(40 << 20) + END, "more than 16,384",
    ),
    "PAX in no records": (lambda: pax(b"hello"), "cannot be read"),
    "PAX of no length": (lambda: pax(b"0 a=b\n"), "PAX"),
    "PAX of a negative length": (lambda: pax(b"-9 a=b\n"), "PAX"),
    "PAX of a million digits": (lambda: pax(b"9" * 16000 + b" a=b\n"), "cannot be read"),
    "PAX of a size that is no number": (lambda: pax(b"10 size=a\n"), "cannot be read"),
    "PAX of a negative size": (lambda: pax(b"11 size=-5\n"), "ends within"),
    "PAX of many small records, many times": (
        lambda: (header("pax", 16384, tarfile.XHDTYPE) + b"4 =\n" * 4096) * 100 + b"x" * 512, "invalid header",
    ),
    "an image of 70 MB": (lambda: header(size=70 << 20) + GOOD + bytes((70 << 20) - len(GOOD)) + END, "larger"),
    "a terminal's controls": (lambda: header("\x1b[31m.png", 512) + b"x" * 512 + END, "\\x1b[31m"),
    "a name in no text": (lambda: header("\udcff.png", 512) + b"x" * 512 + END, "\\udcff"),
    "twenty thousand folders": (
        lambda: b"".join(header(f"{i}/", 0, tarfile.DIRTYPE) for i in range(20_000)) + END, "no images",
    ),
    "a caption of 60 MB": (
        lambda: header() + padded(GOOD) + header("a.txt", 60 << 20) + b"a" * (60 << 20) + END, "65,536",
    ),
    "a record a million deep": (
        lambda: header() + padded(GOOD) + header("a.json", 999_424) + b'{"text":' + b"[" * 999_416 + END, "nothing",
    ),
}  # fmt: skip
LISTS: dict[str, tuple[str, bytes, str]] = {
    "a line a million deep": ("metadata.jsonl", b'{"text": ' + b"[" * 1_000_000, "row 1"),
    "60 MB of empty lines": ("metadata.jsonl", b"\n" * (60 << 20), "rows"),
    "70 MB": ("metadata.jsonl", b" " * (70 << 20), "larger"),
    "1,000,000 rows": ("metadata.jsonl", b'{"file_name":"a","text":""}\n' * 1_000_000, "rows"),
    "20,000,000 columns": ("metadata.csv", b"file_name,text" + b"," * 20_000_000 + b"\na\n", "row 2"),
    "20,000,000 rows of commas": ("metadata.csv", b"file_name,text\n" + b"a,\n" * 20_000_000, "rows"),
    "a cell of 50 MB": ("metadata.csv", b"file_name,text\na.png," + b"x" * (50 << 20), "field"),
    "a number of a million digits": ("metadata.jsonl", b'{"file_name": "a", "text": ' + b"9" * 1_000_000, "row 1"),
    "a file_name that is a list": ("metadata.jsonl", b'{"file_name": [], "text": "a"}', "file_name"),
    "a list in place of a record": ("metadata.jsonl", b'["text"]', "row 1"),
    "a number in place of a record": ("metadata.jsonl", b"7", "row 1"),
    "a name that leads out": ("metadata.jsonl", b'{"file_name": "../../etc/passwd", "text": "a"}', "nothing"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def check(path: Path, word: str) -> None:
    """The use of a path is refused, with this word, unless it says that nothing is wrong with it."""
    before = {file for file in path.parent.rglob("*") if file.suffix != ".npz"}
    error, seconds, taken = measure("images", path)
    assert (error is None) == (word == "nothing"), error
    assert error is None or (not error.startswith("undeclared") and error.isprintable() and len(error) < 1500), error
    assert error is None or word in error, error
    assert seconds < 5 and taken < BYTES, (seconds, taken)
    assert {file for file in path.parent.rglob("*") if file.suffix != ".npz"} == before, "something was unpacked"


@pytest.mark.parametrize("name", TARS)
def test_hostile_tars_are_refused(name, tmp_path):
    make, word = TARS[name]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tar").write_bytes(make())
    check(tmp_path / "data", word)


@pytest.mark.parametrize("name", LISTS)
def test_hostile_lists_are_refused(name, tmp_path):
    file, content, word = LISTS[name]
    check(make_folder(tmp_path / "data", {"a.png": GOOD, file: content}), word)


@pytest.mark.parametrize("file", ["a.txt", "a.json", "metadata.jsonl", "0.tar"])
@pytest.mark.parametrize("make", [h.pipe, h.zero, h.unix_socket, lambda path: h.sparse(path, h.HOLES)])
def test_what_is_no_file_is_refused(file, make, tmp_path):
    (tmp_path / "data").mkdir()
    if file != "0.tar":
        (tmp_path / "data" / "a.png").write_bytes(GOOD)
    make(tmp_path / "data" / file)
    check(tmp_path / "data", "nothing" if file == "a.json" else {"a.txt": "a.png", "0.tar": "data"}.get(file, file))


def test_a_tar_of_nothing_but_holes_is_over_at_once(tmp_path):
    check(h.sparse(tmp_path / "a.tar", h.HOLES, header(size=h.HOLES - 2048)), "larger")


def test_names_lead_nowhere(tmp_path):
    """An absolute name is one like others: what is beside such a path is not looked at. One with .. is hidden."""
    (tmp_path / "a.txt").write_text("secret")
    files = {str(tmp_path / "a.png"): GOOD, "../../../../etc/b.png": GOOD}
    images = open_images(make_tar(tmp_path / "data" / "a.tar", files))
    assert len(images) == 1 and not images.captioned


def test_what_tarfile_writes_is_read(tmp_path):
    """Folders, links and comments of others do no harm."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "hello"}) as tar:
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "a.png").write_bytes(GOOD)
        (tmp_path / "images" / "link").symlink_to("a.png")
        tar.add(tmp_path / "images", "images")  # with times in fractions of a second
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    assert len(open_images(tmp_path / "a.tar")) == 1
