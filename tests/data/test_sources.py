"""Every format is recognised by its content, and whatever is wrong with it is said in one sentence."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from d2o.checkpoints.places import locate
from d2o.data.datasets import open_images
from d2o.data.source import Source
from d2o.data.sources import BUILT_IN, READERS, from_arrays
from refusal import refused

from .making import encode, make_folder, make_parquet, make_zip, named, random_pixels

PIXELS = random_pixels()
LABELS = [2, 0, 1, 1, 0, 2]
NAMES = [f"img{i}.png" for i in range(6)]


def refuse(source, *names: str, **options) -> None:
    """Opening `source` is refused in one sentence that names all of `names`."""
    with refused(*names):
        open_images(source, **options)


def test_digits_are_built_in():
    digits = open_images("digits")
    assert len(digits) == 1797 and digits.shape == (1, 8, 8) and digits.num_classes == 10
    assert digits.labels is not None and digits.labels[:10].tolist() == list(range(10))
    pixels = digits.pixels(range(1797))
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # 5, 13, 9, 1 sixteenths of 255, rounded
    assert pixels.max() == 255 and pixels.min() == 0
    assert open_images("digits", labels="none").num_classes == 0


def test_digits_are_those_that_scikit_learn_loads():
    images, targets = load_digits(return_X_y=True)
    digits = open_images("digits")
    assert np.array_equal(np.round(digits.pixels(range(1797)).reshape(-1, 64) * (16 / 255)), images)
    assert digits.labels is not None and np.array_equal(digits.labels, targets)


def test_zip_with_labels(tmp_path):
    path = make_zip(tmp_path / "a.zip", named(PIXELS), [[name, k] for name, k in zip(NAMES, LABELS, strict=True)][::-1])
    images = open_images(path)
    assert np.array_equal(images.pixels(range(6)), PIXELS)
    assert images.labels is not None and images.labels.tolist() == LABELS and images.num_classes == 3
    assert images.name == "a" and images.labels.dtype == np.int64


@pytest.mark.parametrize("labels", [None, ...])
def test_zip_without_labels(tmp_path, labels):
    files = {"__MACOSX/._img0.png": b"junk", "readme.txt": b"hello", **named(PIXELS, "00000/img{}.png")}
    images = open_images(make_zip(tmp_path / "a.ZIP", files, labels))
    assert len(images) == 6 and images.labels is None and images.num_classes == 0


def test_jpeg_in_a_zip(tmp_path):
    flat = np.full((1, 8, 8, 3), (10, 200, 90), np.uint8)
    images = open_images(make_zip(tmp_path / "a.zip", {"a.JPEG": encode(flat[0], kind="JPEG")}))
    assert np.abs(images.pixels([0]).astype(int) - flat).max() <= 4


def test_flat_folder_has_no_labels(tmp_path):
    images = open_images(make_folder(tmp_path / "flat", {**named(PIXELS), "notes.txt": b"", ".hidden.png": b""}))
    assert len(images) == 6 and images.labels is None
    assert np.array_equal(images.pixels([3, 1]), PIXELS[[3, 1]])


def test_class_folders_are_labels_in_sorted_order(tmp_path):
    files = {"dog/a.png": PIXELS[0], "cat/sub/b.png": PIXELS[1], "ant/c.png": PIXELS[2]}
    images = open_images(make_folder(tmp_path / "tree", {name: encode(image) for name, image in files.items()}))
    assert images.labels is not None and images.labels.tolist() == [0, 1, 2]
    assert np.array_equal(images.pixels(range(3)), PIXELS[[2, 1, 0]])


def test_numbered_class_folders_sort_as_numbers(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1).repeat(4, 1).repeat(4, 2)
    images = open_images(make_folder(tmp_path, {f"{i}/a.png": encode(pixels[i]) for i in range(12)}))
    assert images.labels is not None and images.labels.tolist() == images.pixels(range(12))[:, 0, 0, 0].tolist()


def test_links_in_a_circle_end(tmp_path):
    make_folder(tmp_path, {"a/x.png": encode(PIXELS[0])})
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert len(open_images(tmp_path)) == 1


@pytest.mark.parametrize("key", ["images", "arr_0", "x"])
@pytest.mark.parametrize("label", ["labels", "label", "y"])
def test_npz_names(tmp_path, key, label):
    np.savez(tmp_path / "a.npz", **{key: PIXELS, label: np.array(LABELS, np.uint8)})
    images = open_images(tmp_path / "a.npz")
    assert np.array_equal(images.pixels(range(6)), PIXELS)
    assert images.labels is not None and images.labels.tolist() == LABELS


def test_npz_layouts(tmp_path):
    grey = random_pixels(channels=1)
    for i, array in enumerate([grey, grey[..., 0], grey.transpose(0, 3, 1, 2)]):
        np.savez_compressed(tmp_path / f"{i}.npz", images=array)
        assert np.array_equal(open_images(tmp_path / f"{i}.npz").pixels(range(6)), grey)
    np.savez(tmp_path / "c.npz", images=PIXELS.transpose(0, 3, 1, 2))
    assert np.array_equal(open_images(tmp_path / "c.npz").pixels(range(6)), PIXELS)


def test_missing_path_names_what_is_near(tmp_path):
    make_zip(tmp_path / "cifar10.zip", named(random_pixels()))
    refuse(tmp_path / "cifar1O.zip", "did you mean", "cifar10.zip", "digits")
    refuse("digit", "did you mean digits?")
    refuse("/no/such/place.zip", "no images at", "digits")


def test_empty_things(tmp_path):
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "contains no images")
    refuse(make_zip(tmp_path / "empty.zip", {}), "contains no images")
    refuse(make_zip(tmp_path / "text.zip", {"a.txt": b"a"}), "contains no images")
    np.savez(tmp_path / "empty.npz", images=np.zeros((0, 8, 8, 3), np.uint8))
    refuse(tmp_path / "empty.npz", "(0, 8, 8, 3)")
    refuse(make_parquet(tmp_path / "empty.parquet", {"image": np.array([], "S1")}), "no rows")
    (tmp_path / "zero").touch()
    refuse(tmp_path / "zero", "not a data set")


def test_truncated_zip(tmp_path):
    path = make_zip(tmp_path / "a.zip", named(PIXELS))
    path.write_bytes(path.read_bytes()[:-30])
    refuse(path, "cannot be read")


def test_git_lfs_pointers(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "a.zip").write_bytes(pointer)
    refuse(tmp_path / "a.zip", "git-LFS pointer", "git lfs pull")
    make_folder(tmp_path / "b", {"x.png": pointer})
    refuse(tmp_path / "b", "x.png", "git lfs pull")


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"whatever")
    refuse(tmp_path / "a.bin", "not a data set", "EDM zip")


@pytest.mark.parametrize(
    ("listing", "says"),
    [
        ([["img0.png", 0]], "no label for img1.png"),
        ([[name, 0] for name in [*NAMES, "ghost.png"]], "ghost.png"),
        ([[name, -1] for name in NAMES], "label -1"),
        ([[name, 1.5] for name in NAMES], "not an integer"),
        ([[name, 1.0] for name in NAMES], "not an integer"),
        ([[name, True] for name in NAMES], "not an integer"),
        ([[name, "cat"] for name in NAMES], "not an integer"),
        ([[name, [0, 1]] for name in NAMES], "not an integer"),
        ([[name, None] for name in NAMES], "not an integer"),
        ([[name, 2**40] for name in NAMES], "label 1099511627776"),
        ([[name] for name in NAMES], "cannot be read"),
        (7, "cannot be read"),
        ({"a": 1}, "cannot be read"),
    ],
)
def test_bad_labels_in_a_zip(tmp_path, listing, says):
    path = make_zip(tmp_path / "a.zip", named(PIXELS), listing)
    refuse(path, says, "a.zip")
    assert open_images(path, labels="none").labels is None


def test_broken_listing(tmp_path):
    refuse(make_zip(tmp_path / "a.zip", {**named(PIXELS), "dataset.json": b"{"}), "dataset.json", "--labels none")
    refuse(make_zip(tmp_path / "b.zip", {**named(PIXELS), "dataset.json": b"\xff\xfe["}), "dataset.json")


def test_label_options(tmp_path):
    path = make_zip(tmp_path / "a.zip", named(PIXELS), [[name, k] for name, k in zip(NAMES, LABELS, strict=True)])
    assert open_images(path, num_classes=10).num_classes == 10
    refuse(path, "label 2", "0 to 1", num_classes=2)
    refuse(path, "'fine'", "--labels", labels="fine")
    refuse(make_zip(tmp_path / "b.zip", named(PIXELS)), "no labels", num_classes=2)


def test_images_in_and_outside_of_class_folders(tmp_path):
    make_folder(tmp_path, {"a/x.png": encode(PIXELS[0]), "y.png": encode(PIXELS[1])})
    refuse(tmp_path, "y.png", "--labels none")
    assert len(open_images(tmp_path, labels="none")) == 2


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": PIXELS / 255.0}, "float64"),
        ({"images": PIXELS.astype(np.int32)}, "int32"),
        ({"images": PIXELS[0, 0]}, "(8, 3)"),
        ({"images": np.zeros((2, 8, 8, 5), np.uint8)}, "(2, 8, 8, 5)"),
        ({"images": np.zeros((2, 0, 8, 3), np.uint8)}, "(2, 0, 8, 3)"),
        ({"pictures": PIXELS}, "pictures"),
        ({"images": np.array([None, {}], object)}, "cannot be read"),
        ({"images": PIXELS, "labels": np.zeros(5, np.int64)}, "6 images but 5 labels"),
        ({"images": PIXELS, "labels": np.zeros((6, 3), np.int64)}, "(6, 3)"),
        ({"images": PIXELS, "labels": np.zeros(6)}, "not an integer"),
        ({"images": PIXELS, "labels": np.array(list("abcdef"))}, "not an integer"),
    ],
)
def test_bad_arrays(tmp_path, arrays, says):
    np.savez(tmp_path / "a.npz", **arrays)
    refuse(tmp_path / "a.npz", says, "a.npz")


def test_an_array_that_lies_about_its_size(tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000, 3), }"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 9)
    refuse(tmp_path / "a.npz", "cannot be read")


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    make_folder(tmp_path, {"locked/x.png": encode(PIXELS[0])})
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    refuse(tmp_path, "locked", "permissions")


def test_written_json_of_a_folder_is_used(tmp_path):
    make_folder(tmp_path, {**named(PIXELS, "00000/img{}.png"), "dataset.json": b""})
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [[f"00000/{n}", 4] for n in NAMES]}))
    images = open_images(tmp_path, num_classes=10)
    assert images.labels is not None and images.labels.tolist() == [4] * 6 and images.num_classes == 10
    assert open_images(tmp_path).classes == ("4",)


class TestOwnFormats:
    """A format of one's own is a function and a line in the table of readers."""

    def read(self, path: Path, labels: str) -> Source:
        pixels = np.loadtxt(path, np.uint8).reshape(-1, 2, 2, 1)
        return from_arrays(str(path), pixels, None if labels == "none" else np.arange(len(pixels)))

    def test_by_its_suffix(self, tmp_path, monkeypatch):
        monkeypatch.setitem(READERS, ".txt", self.read)
        np.savetxt(tmp_path / "a.txt", PIXELS[:3, :2, :2, 0].reshape(3, 4), "%d")
        images = open_images(tmp_path / "a.txt")
        assert np.array_equal(images.pixels(range(3)), PIXELS[:3, :2, :2, :1]) and images.num_classes == 3
        assert open_images(tmp_path / "a.txt", labels="none").labels is None

    def test_by_its_first_bytes_or_a_name(self, tmp_path, monkeypatch):
        monkeypatch.setitem(READERS, b"1 2", self.read)
        (tmp_path / "a").write_text("1 2 3 4\n")
        assert open_images(tmp_path / "a").pixels([0]).ravel().tolist() == [1, 2, 3, 4]
        monkeypatch.setitem(BUILT_IN, "four", lambda _, labels: self.read(tmp_path / "a", labels))
        assert len(open_images("four")) == 1
        refuse("fuor", "four", "digits")

    def test_by_every_command(self, tmp_path, monkeypatch):
        for key, name in ((".txt", "a.txt"), (b"1 2", "b")):
            monkeypatch.setitem(READERS, key, self.read)
            (tmp_path / name).write_text("1 2 3 4\n5 6 7 8\n")
            assert locate(tmp_path / name).kind == "data"
