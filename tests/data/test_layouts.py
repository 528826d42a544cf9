"""What trees of files mean, one by one; and a zip of any files is the same data set as their folder."""

import json
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2o.data.datasets import Images, open_images
from refusal import refused

from .making import encode, make_folder, make_zip, random_pixels

PNG = [encode(image) for image in random_pixels(40, 4)]
ANIMALS = ["cat/0", "cat/1", "dog/0", "dog/1"]


def tree(*names: str, **listings: Any) -> dict[str, bytes]:
    """Different images by names, and dataset.json files by folder."""
    files = {f"{name}.png": PNG[i % len(PNG)] for i, name in enumerate(names)}
    return files | {folder: json.dumps({"labels": labels}).encode() for folder, labels in listings.items()}


def listed(names: list[str], labels: list[int] | None = None) -> list[Any]:
    return [[f"{name}.png", i % 3 if labels is None else labels[i]] for i, name in enumerate(names)]


FLAT = ["a", "b", "c", "d", "e", "f"]
BELOW = [f"images/{name}" for name in FLAT]
SPLIT = [f"{split}/{name}" for split in ("train", "val") for name in ANIMALS]
LAYOUTS: dict[str, tuple[dict[str, bytes], dict[str, Any], list[Any] | None, tuple[str, ...]]] = {
    "flat": (tree(*FLAT), {}, None, ()),
    "classes": (tree(*ANIMALS), {}, [0, 0, 1, 1], ("cat", "dog")),
    "wrapped classes": (tree(*(f"a/b/{name}" for name in ANIMALS)), {}, [0, 0, 1, 1], ("cat", "dog")),
    "one folder": (tree(*BELOW), {}, None, ()),
    "one folder as a class": (tree(*BELOW), {"labels": "folders"}, [0] * 6, ("images",)),
    "folders within classes": (tree("cat/x/0", "cat/y/1", "dog/0"), {}, [0, 0, 1], ("cat", "dog")),
    "splits": (tree(*SPLIT), {}, [0, 0, 1, 1], ("cat", "dog")),
    "the other split": (tree(*SPLIT, "val/emu/2"), {"split": "VAL"}, [0, 0, 1, 1, 2], ("cat", "dog", "emu")),
    "all splits": (tree(*SPLIT), {"split": "all"}, [0, 0, 1, 1] * 2, ("cat", "dog")),
    "splits as classes": (tree(*SPLIT), {"labels": "folders"}, [0] * 4 + [1] * 4, ("train", "val")),
    "a split of folders": (
        tree("train/00000/0", "train/00001/1", "val/00002/2"),
        {"labels": "folders", "split": "train"},
        [0, 1],
        ("00000", "00001"),
    ),
    "splits without classes": (tree("test/0", "test/1", "train/0"), {}, None, ()),
    "splits without labels": (tree(*SPLIT), {"labels": "none"}, None, ()),
    "wrapped splits": (tree(*(f"set/{name}" for name in SPLIT)), {}, [0, 0, 1, 1], ("cat", "dog")),
    "wrapping folders in splits": (tree("Train/x/cat/0", "Train/x/dog/0", "Test/y/0"), {}, [0, 1], ("cat", "dog")),
    "splits and more": (tree("extra/0", "train/cat/0", "train/dog/0", "val/cat/0"), {}, [0, 1], ("cat", "dog")),
    "one split": (tree("test/cat/0", "test/dog/0"), {"split": "test"}, [0, 1], ("cat", "dog")),
    "a class called train": (tree("boat/0", "train/0"), {}, [0, 1], ("boat", "train")),
    "buckets": (tree("00000/0", "00000/1", "01000/0", "12000/0"), {}, None, ()),
    "wrapped buckets": (tree("ffhq/00000/0", "ffhq/01000/0"), {}, None, ()),
    "buckets in a split": (tree("train/00000/0", "train/01000/0", "val/00000/1"), {}, None, ()),
    "buckets as classes": (tree("ffhq/00000/0", "ffhq/01000/0"), {"labels": "folders"}, [0, 1], ("00000", "01000")),
    "numbers": (tree("3/0", "10/0", "5/0"), {}, [0, 1, 2], ("3", "5", "10")),
    "numbers of a model": (tree("3/0", "10/0", "5/0"), {"num_classes": 11}, [3, 5, 10], tuple(map(str, range(11)))),
    "long numbers": (tree("20230101/0", "20240101/0"), {}, [0, 1], ("20230101", "20240101")),
    "numbers that are the same": (tree("1/0", "01/0"), {}, [0, 1], ("01", "1")),
    "list": (tree(*FLAT, **{"dataset.json": listed(FLAT)}), {}, [0, 1, 2, 0, 1, 2], ("0", "1", "2")),
    "wrapped list": (tree(*BELOW, **{"images/dataset.json": listed(FLAT)}), {}, [0, 1, 2] * 2, ("0", "1", "2")),
    "list around": (tree(*BELOW, **{"dataset.json": listed(BELOW)}), {}, [0, 1, 2] * 2, ("0", "1", "2")),
    "list between": (
        tree(*(f"x/{name}" for name in BELOW), **{"x/dataset.json": listed(BELOW)}),
        {},
        [0, 1, 2] * 2,
        ("0", "1", "2"),
    ),
    "list from one": (
        tree(*FLAT, **{"dataset.json": listed(FLAT, [1, 3, 1, 3, 7, 7])}),
        {},
        [0, 1, 0, 1, 2, 2],
        ("1", "3", "7"),
    ),
    "list before folders": (tree(*ANIMALS, **{"dataset.json": listed(ANIMALS)}), {}, [0, 1, 2, 0], ("0", "1", "2")),
    "folders before list": (
        tree(*ANIMALS, **{"dataset.json": listed(ANIMALS)}),
        {"labels": "folders"},
        [0, 0, 1, 1],
        ("cat", "dog"),
    ),
    "list of backslashes": (
        tree(*BELOW, **{"dataset.json": listed([name.replace("/", "\\") for name in BELOW])}),
        {},
        [0, 1, 2] * 2,
        ("0", "1", "2"),
    ),
    "list that says none": (tree(*FLAT, **{"dataset.json": None}), {}, None, ()),
    "list ignored": (tree(*FLAT, **{"dataset.json": [["ghost.png", 0]]}), {"labels": "none"}, None, ()),
    "list of all splits": (
        tree(*SPLIT, **{"dataset.json": listed(SPLIT)}),
        {"split": "val"},
        [1, 2, 0, 1],
        ("0", "1", "2"),
    ),
    "lists in splits": (
        tree(*SPLIT, **{"train/dataset.json": listed(ANIMALS), "val/dataset.json": listed(ANIMALS)}),
        {"split": "all"},
        [0, 1, 2, 0] * 2,
        ("0", "1", "2"),
    ),
    "list aside": (tree(*BELOW, **{"labels/dataset.json": listed(FLAT)}), {}, None, ()),
    "list of one class": (tree(*ANIMALS, **{"cat/dataset.json": listed(["0", "1"])}), {}, [0, 0, 1, 1], ("cat", "dog")),
    "two lists": (
        tree(*BELOW, **{"dataset.json": listed(BELOW, [5] * 6), "images/dataset.json": listed(FLAT)}),
        {},
        [0] * 6,
        ("5",),
    ),
    "other files": (
        tree(*ANIMALS) | {"LICENSE": b"", ".DS_Store": b"", "cat/notes.txt": b"", "__MACOSX/._cat/._0.png": b""},
        {},
        [0, 0, 1, 1],
        ("cat", "dog"),
    ),
}


def found(images: Images) -> tuple[Any, ...]:
    return images.labels and images.labels.tolist(), images.classes, images.describe().partition(":")[2], images.fingerprint


def outcome(path: Path, **options: Any) -> Any:
    """What opening gives, or the sentence by which it is refused."""
    try:
        images = open_images(path, **options)
    except ValueError as error:
        return str(error).replace(str(path), "PATH")
    labels = None if images.labels is None else images.labels.tolist()
    return labels, images.classes, images.describe().partition(":")[2], images.fingerprint


def zip_as_windows(path: Path, files: dict[str, bytes]) -> Path:
    return make_zip(path, {name.replace("/", "\\"): content for name, content in files.items()})


def zip_as_macos(path: Path, files: dict[str, bytes]) -> Path:
    """Decomposed accents in UTF-8 that is not said to be, folders, and a shadow of each file."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            raw = unicodedata.normalize("NFD", name).encode()
            archive.writestr(zipfile.ZipInfo(raw.decode("cp437")), content)
            archive.writestr(f"__MACOSX/{Path(name).parent}/._{Path(name).name}", b"\0\5\x16\7")
            if "/" in name:
                archive.writestr(f"{name.split('/')[0]}/", b"")
    plain = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():  # as the system writes it: the same bytes, without the flag
            said = entry.orig_filename.encode() if entry.flag_bits & 0x800 else b""
            plain = plain.replace(said, said.decode().encode("cp437")) if said else plain
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout(layout, tmp_path):
    files, options, labels, classes = LAYOUTS[layout]
    folder = make_folder(tmp_path / "data", files)
    images = open_images(folder, **options)
    assert (None if images.labels is None else images.labels.tolist()) == labels
    assert images.classes == classes
    for zipped in (make_zip(tmp_path / "data.zip", files), zip_as_windows(tmp_path / "windows/data.zip", files)):
        assert outcome(zipped, **options) == outcome(folder, **options)
