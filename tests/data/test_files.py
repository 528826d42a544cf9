"""Seeds, rounding, grids, and files that are either whole or not there."""

import errno
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from d2o.data import files
from d2o.data.datasets import open_images
from d2o.data.files import grid, parse_seeds, to_float, to_uint8, write_images
from d2o.files import atomic, checked_file, checked_folder


def pixels(count: int = 5, side: int = 4, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def test_seeds_are_read_in_the_order_written():
    assert parse_seeds("0-3") == [0, 1, 2, 3]
    assert parse_seeds("7, 1,5-6 ,12 - 13") == [7, 1, 5, 6, 12, 13]
    assert parse_seeds(str(2**63 - 1)) == [2**63 - 1]


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20, unique=True))
def test_seeds_round_trip(seeds):
    assert parse_seeds(",".join(map(str, seeds))) == seeds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a seed"),
        ("1,", "not a seed"),
        ("-1", "not a seed"),
        ("1.5", "not a seed"),
        ("a-b", "not a seed"),
        ("1-2-3", "not a seed"),
        ("²", "not a seed"),
        ("5-2", "backwards"),
        ("1,0-3", "repeats seed 1"),
        (str(2**63), "too large"),
        ("9" * 30, "not a seed"),
        ("0-99999999999", "more than"),
        ("0-9999999,10000000-19999999", "more than"),
    ],
)
def test_bad_seeds_are_refused(text, says):
    with pytest.raises(ValueError, match=says):
        parse_seeds(text)


def test_every_level_survives_the_round_trip():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = to_float(levels)
    assert images.shape == (1, 1, 16, 16) and images.min() == -1 and images.max() == 1
    assert np.array_equal(to_uint8(images), levels)
    assert np.array_equal(to_uint8(images.double()), levels)


def test_channels_keep_their_place():
    image = np.array([[[[10, 20, 30], [40, 50, 60]]]], np.uint8)
    assert torch.allclose((to_float(image)[0, :, 0, 1] + 1) * 127.5, torch.tensor([40.0, 50.0, 60.0]))
    assert np.array_equal(to_uint8(to_float(image[:, :, ::-1])), image[:, :, ::-1])


def test_rounding_is_half_up_and_clamped():
    values = torch.tensor([-1.0, -3.0, 1.0, 9.0, 0.0, float("inf"), -float("inf")])  # 0 is 127.5
    assert to_uint8(values.reshape(1, 1, 1, -1)).ravel().tolist() == [0, 0, 255, 255, 128, 255, 0]


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.full((1, 1, 2, 2), float("nan")))


def test_grid_places_every_image():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(2, 1).repeat(3, 2)
    sheet = grid(images, columns=2, scale=2, gap=1)
    assert sheet.shape == (3 * (4 + 1) + 1, 2 * (6 + 1) + 1, 1)
    for i in range(5):
        top, left = i // 2 * 5 + 1, i % 2 * 7 + 1
        assert (sheet[top : top + 4, left : left + 6] == i).all()
    assert (sheet[11:, 8:] == 255).all() and (sheet[0] == 255).all() and (sheet[:, 7] == 255).all()


def test_grid_is_nearly_square_and_enlarges_small_images():
    assert grid(pixels(10, 8), gap=0).shape == (3 * 64, 4 * 64, 3)
    assert grid(pixels(1, 100), gap=0).shape == (100, 100, 3)


def test_png_is_the_grid(tmp_path):
    write_images(tmp_path / "a.png", [pixels()[:2], pixels()[2:]])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), grid(pixels()))


def test_npz_holds_images_seeds_and_labels(tmp_path):
    write_images(tmp_path / "a.npz", [pixels()], seeds=[9, 8, 7, 6, 5], labels=[0, 1, 2, 1, 0])
    with np.load(tmp_path / "a.npz") as arrays:
        assert np.array_equal(arrays["images"], pixels())
        assert arrays["seeds"].tolist() == [9, 8, 7, 6, 5] and arrays["labels"].tolist() == [0, 1, 2, 1, 0]
    write_images(tmp_path / "b.npz", [pixels()])
    with np.load(tmp_path / "b.npz") as arrays:
        assert sorted(arrays) == ["images", "seeds"] and arrays["seeds"].tolist() == [0, 1, 2, 3, 4]


def test_folder_is_named_by_seed(tmp_path):
    write_images(tmp_path / "out", [pixels()], seeds=[3, 10, 11, 12, 1234567], labels=[4, 3, 2, 1, 0])
    names = ["000003.png", "000010.png", "000011.png", "000012.png", "1234567.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*names, "dataset.json"]
    listing = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert listing == {"labels": [[name, 4 - i] for i, name in enumerate(names)]}


def test_zip_has_the_layout_of_edm(tmp_path):
    write_images(tmp_path / "a.zip", [pixels(2)], seeds=[7, 12345], labels=[1, 0])
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["00000/img00000007.png", "00012/img00012345.png", "dataset.json"]
        labels = json.loads(archive.read("dataset.json"))["labels"]
    assert labels == [["00000/img00000007.png", 1], ["00012/img00012345.png", 0]]


@pytest.mark.parametrize("name", ["a.npz", "a.zip", "a"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels", [None, [0, 1, 2, 1, 0]])
def test_what_is_written_can_be_opened(tmp_path, name, channels, labels):
    write_images(tmp_path / name, iter([pixels(channels=channels)]), labels=labels)
    images = open_images(tmp_path / name)
    assert np.array_equal(images.pixels(range(5)), pixels(channels=channels))
    assert images.labels is None if labels is None else images.labels is not None and images.labels.tolist() == labels


@pytest.mark.parametrize("name", ["a.png", "a.npz", "a.zip", "a"])
@pytest.mark.parametrize("wrong", [{"seeds": [1]}, {"labels": [1] * 9}])
def test_lists_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, name, wrong):
    with pytest.raises(ValueError, match="than seeds or labels"):
        write_images(tmp_path / name, [pixels()], **wrong)
    assert not list(tmp_path.iterdir())


def test_bad_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.png, \.npz or \.zip"):
        write_images(tmp_path / "a.gif", [pixels()])
    with pytest.raises(ValueError, match="no images"):
        write_images(tmp_path / "a.png", [])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    with pytest.raises(ValueError, match="not empty"):
        write_images(tmp_path / "full", [pixels()])


class TestPlacesToWriteTo:
    @pytest.fixture
    def refused(self, monkeypatch):
        """Return a function after whose call the system refuses to make anything."""

        def refuse(number):
            def mkdir(path, *_):
                raise OSError(number, os.strerror(number), path)

            monkeypatch.setattr(os, "mkdir", mkdir)

        return refuse

    @pytest.mark.parametrize("name", [".", "new", "a/b/c"])
    def test_a_good_one_is_left_as_it_was(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        assert checked_folder(name) == Path(name) and checked_file(f"{name}/a.png") == Path(name, "a.png")
        assert checked_folder(tmp_path / name) == tmp_path / name
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["", " "])
    def test_an_empty_name_is_not_the_current_folder(self, name):
        with pytest.raises(ValueError, match="output is empty: name a directory"):
            checked_folder(name)
        with pytest.raises(ValueError, match="output is empty: name a file"):
            checked_file(name)

    def test_files_in_the_way(self, tmp_path):
        (tmp_path / "file").touch()
        (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
        for name in ("file", "file/deep/in", "nowhere"):
            with pytest.raises(ValueError, match=r"is a file: choose a directory for the results\."):
                checked_folder(tmp_path / name)
        with pytest.raises(ValueError, match="is a directory: name a file"):
            checked_file(tmp_path)

    def test_what_the_system_refuses_is_told(self, tmp_path, refused):
        refused(errno.EACCES)
        with pytest.raises(ValueError, match=r"cannot be written to \(permission denied\): choose another directory"):
            checked_folder(tmp_path)
        refused(errno.ENOSPC)
        with pytest.raises(ValueError, match=r"new/one cannot be made in .* \(no space left on device\)"):
            checked_folder(tmp_path / "new" / "one")

    def test_images_are_not_made_for_nothing(self, tmp_path, refused):
        def batches():
            yield pytest.fail("made images")

        refused(errno.EACCES)
        for name in ("a.png", "a.npz", "folder"):
            with pytest.raises(ValueError, match="permission denied"):
                write_images(tmp_path / name, batches())


def test_atomic_replaces_and_makes_folders(tmp_path):
    target = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        with atomic(target) as path:
            assert path.parent == target.parent and path.suffix == ".txt"
            path.write_text(text)
        assert target.read_text() == text
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failing_writer_changes_nothing(tmp_path, failure):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(failure), atomic(target) as path:
        path.write_text("half")
        raise failure
    with pytest.raises(failure), atomic(tmp_path / "folder") as path:
        path.mkdir()
        (path / "part").touch()
        raise failure
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_said_clearly(tmp_path):
    with pytest.raises(OSError, match=r"Cannot write .*a\.txt: the disk is full") as caught, atomic(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def test_an_unrelated_error_passes_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic(tmp_path / "a.txt"):
        (tmp_path / "elsewhere").read_text()


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Cannot write"), atomic(tmp_path / "file" / "a.txt") as path:
        path.touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"Cannot write .*folder: is a directory"), atomic(tmp_path / "folder") as path:
        path.touch()


def test_a_failing_encoder_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.zip"
    write_images(target, [pixels(2)])
    before = target.read_bytes()

    def fail(_: np.ndarray) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "encode_image", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_images(target, [pixels()])
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [Path(target)]


def test_what_is_written_can_be_read_by_whom_the_system_lets(tmp_path: Path) -> None:
    """safetensors writes files that only their owner may read; ours are like any program's."""
    (tmp_path / "plain").write_text("")
    with atomic(tmp_path / "ours") as temporary:
        temporary.write_text("")
        temporary.chmod(0o600)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
