"""What trees of files mean, one by one; and a zip of any files is the same data set as their folder."""

import json
import os
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2o.data.datasets import open_images
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
    "numbers": (tree("3/0", "10/0", "5/0"), {}, [2, 0, 1], ("3", "5", "10")),
    "numbers of a model": (tree("3/0", "10/0", "5/0"), {"num_classes": 11}, [10, 3, 5], tuple(map(str, range(11)))),
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


class Unsaid(zipfile.ZipInfo):
    """A name in UTF-8, decomposed, without the flag that says so."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802
        return unicodedata.normalize("NFD", self.filename).encode(), self.flag_bits & ~0x800


def zip_as_macos(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for folder in {folder for name in files for folder in Path(name).parents[:-1]}:
            archive.writestr(Unsaid(f"{folder}/"), b"")
        for name, content in files.items():
            archive.writestr(Unsaid(name), content)
            archive.writestr(Unsaid(f"__MACOSX/{Path(name).with_name('._' + Path(name).name)}"), b"\0\5\x16\7")
    return path


def zip_with_dots(path: Path, files: dict[str, bytes]) -> Path:
    return make_zip(path, {f"./{name}": content for name, content in reversed(files.items())})


ZIPS = (make_zip, zip_as_windows, zip_as_macos, zip_with_dots)


def check_zips(place: Path, files: dict[str, bytes], **options: Any) -> None:
    """A folder of these files, and zips of it made in all ways, are the same."""
    folder = outcome(make_folder(place / "data", files), **options)
    for i, make in enumerate(ZIPS):
        (place / str(i)).mkdir()
        assert outcome(make(place / str(i) / "data.zip", files), **options) == (
            folder if isinstance(folder, tuple) else folder.replace("data in", "data.zip in")
        ), make.__name__


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout(layout, tmp_path):
    files, options, labels, classes = LAYOUTS[layout]
    images = open_images(make_folder(tmp_path / "data", files), **options)
    assert (None if images.labels is None else images.labels.tolist()) == labels
    assert images.classes == classes
    check_zips(tmp_path, files, **options)


FOLDERS = st.sampled_from(["train", "Val", "00000", "01000", "3", "03", "été", "cat", "a-b", "images"])
NAMES = st.builds(
    lambda folders, name: "/".join([*folders, name]), st.lists(FOLDERS, max_size=3), st.sampled_from("xyz")
)


@settings(deadline=None, max_examples=60)
@given(
    names=st.lists(NAMES, min_size=1, max_size=8, unique=True),
    where=st.none() | st.integers(0, 3),
    labels=st.sampled_from(["auto", "none", "folders"]),
    split=st.sampled_from([None, "train", "val", "all"]),
)
def test_any_zip_is_its_folder(tmp_path_factory, names, where, labels, split):
    """`where` is how far inside the first image's folders a dataset.json lies."""
    files, inside = tree(*names), names[0].split("/")[:-1][:where]
    if where is not None:
        around = "/".join([*inside, ""])
        below = [name.removeprefix(around) for name in names if name.startswith(around)]
        files |= tree(**{f"{around}dataset.json": listed(below)})
    check_zips(tmp_path_factory.mktemp("any"), files, labels=labels, split=split)


@pytest.mark.parametrize(
    ("files", "options", "says"),
    [
        (tree("test/0", "val/0"), {}, ("test, val", "--split")),
        (tree(*SPLIT), {"split": "test"}, ("test", "train, val", "--split all")),
        (tree(*ANIMALS), {"split": "train"}, ("no splits", "--split")),
        (tree("test/0"), {"split": "train"}, ("train", "test")),
        (tree("train/cat/0", "train/dog/0", "val/0"), {"split": "all"}, ("train, val", "--split", "--labels none")),
        (tree(*ANIMALS, "0"), {}, ("0.png", "--labels none")),
        (tree(*ANIMALS, "0"), {"labels": "folders"}, ("0.png", "--labels none")),
        (tree(*ANIMALS, "0"), {"labels": "animals"}, ("'animals'", "auto", "none", "folders")),
        (tree("cat/0", **{"dataset.json": [["0.png", 1]]}), {}, ("cat/0.png", "--labels none")),
        (tree("0", **{"dataset.json": [["0.png", 1], ["0.png", 2]]}), {}, ("two labels", "0.png")),
        (tree("0", **{"dataset.json": [["0.png", 1]] * 5000}), {}, ("longer", "--labels none")),
        ({**tree("0"), "dataset.json": b"[" * 100_000}, {}, ("dataset.json", "--labels none")),
        ({**tree("0"), "dataset.json": b" " * (64 << 20) + b"{}"}, {}, ("larger", "--labels none")),
        ({"a.npy": b"", "b.mp4": b"", "c.mp4": b""}, {}, ("no images", "2 .mp4, 1 .npy files")),
    ],
)
def test_a_layout_that_is_refused(files, options, says, tmp_path):
    with refused(*says):
        open_images(make_folder(tmp_path / "data", files), **options)
    if options.get("labels") == "auto":
        assert open_images(tmp_path / "data", labels="none").labels is None


def test_a_byte_order_mark_and_accents(tmp_path):
    files = tree("été/a", "été/b", **{"été/dataset.json": [["a.png", 1], ["b.png", 0]]})
    for form in ("NFC", "NFD"):
        text = b"\xef\xbb\xbf" + json.dumps({"labels": listed(["été/a", "été/b"])}).encode()
        place = make_folder(tmp_path / form, {unicodedata.normalize(form, name): data for name, data in files.items()})
        (place / "dataset.json").write_bytes(text)
        assert outcome(place)[0] == [0, 1]
        assert "dataset.json (" in outcome(place)[2], "the other one is named"


def test_a_pipe_is_no_list_of_labels(tmp_path):
    os.mkfifo(make_folder(tmp_path, tree(*FLAT)) / "dataset.json")
    with refused("dataset.json", "regular file", "--labels none"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("splits", ["4 images", "2 classes: 0 = cat (2), 1 = dog (2)", "val (4 images; --split val or all)"]),
        ("buckets", ["no classes", "00000 to 12000", "--labels folders"]),
        ("numbers of a model", ["3 (1), 5 (1), 10 (1)", "classes 0, 1, 2, 4, 6, 7, 8, 9 have no images"]),
        ("list aside", ["labels/dataset.json"]),
        ("list ignored", ["dataset.json (--labels none)"]),
        ("other files", ["1 .txt", "1 suffixless"]),
        ("flat", ["6 images of 3x4x4; no classes; ignored: nothing"]),
    ],
)
def test_what_was_found_is_said(layout, says, tmp_path, caplog):
    files, options, _, _ = LAYOUTS[layout]
    with caplog.at_level("INFO", "d2o"):
        images = open_images(make_folder(tmp_path / "data", files), **options)
    assert caplog.messages == [images.describe()]
    for words in says:
        assert words in images.describe()


def test_whom_to_name_is_the_first_paragraph_of_a_file_beside_all_folders(tmp_path):
    files = tree(*ANIMALS) | {"ATTRIBUTION": "Ann\nBob\n\nTheir licence".encode("utf-8-sig"), "cat/ATTRIBUTION": b"Eve"}
    for path in (make_folder(tmp_path / "data", files), make_zip(tmp_path / "data.zip", files)):
        images = open_images(path)
        assert images.cache.decode.source.attribution == "Ann\nBob" and "1 suffixless" in images.describe()
    (tmp_path / "data" / "ATTRIBUTION").write_bytes(b"\xff\xfe")
    with refused("ATTRIBUTION", str(tmp_path / "data"), "remove it"):
        open_images(tmp_path / "data")


def test_many_classes_are_shortened(tmp_path):
    folder = make_folder(tmp_path / "many", tree(*(f"n{i:03}/0" for i in range(200)), "n000/1"))
    assert "200 classes: 0 = n000 (2), 1 = n001 (1)," in open_images(folder).describe()
    assert "199 = n199 (1)" in open_images(folder).describe() and len(open_images(folder).describe()) < 400


@pytest.mark.parametrize("suffix", [".JPG", ".jpe", ".jfif", ".jif"])
def test_jpegs_of_other_suffixes_are_images(suffix, tmp_path):
    image = np.full((4, 4, 3), 100, np.uint8)
    assert len(open_images(make_folder(tmp_path / "data", {f"a{suffix}": encode(image, kind="JPEG")}))) == 1
