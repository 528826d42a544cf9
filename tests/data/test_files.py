"""Seeds, rounding, grids, and images in files."""

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
from refusal import refused


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
        ("", "''"),
        ("1,", "''"),
        ("-1", "'-1'"),
        ("1.5", "'1.5'"),
        ("a-b", "'a-b'"),
        ("1-2-3", "'1-2-3'"),
        ("²", "'²'"),
        ("5-2", "2-5"),
        ("1,0-3", "seed 1"),
        (str(2**63), str(2**63 - 1)),
        ("9" * 30, "0-63"),
        ("0-99999999999", "10,000,000"),
        ("0-9999999,10000000-19999999", "10,000,000"),
    ],
)
def test_bad_seeds_are_refused(text, says):
    with refused("--seeds", says):
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
    with refused("NaN"):
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
    with refused(name, "seeds or labels"):
        write_images(tmp_path / name, [pixels()], **wrong)
    assert not list(tmp_path.iterdir())


def test_bad_names_are_refused(tmp_path):
    with refused("a.gif", ".png", ".npz", ".zip"):
        write_images(tmp_path / "a.gif", [pixels()])
    with refused("a.png"):
        write_images(tmp_path / "a.png", [])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    with refused("full"):
        write_images(tmp_path / "full", [pixels()])


def test_images_are_not_made_where_they_cannot_be_written(tmp_path, monkeypatch):
    def mkdir(path, *_):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)

    def batches():
        yield pytest.fail("made images")

    monkeypatch.setattr(os, "mkdir", mkdir)
    for name in ("a.png", "a.npz", "folder"):
        with refused(str(tmp_path)):
            write_images(tmp_path / name, batches())


def test_a_failing_encoder_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.zip"
    write_images(target, [pixels(2)])
    before = target.read_bytes()

    def fail(_: np.ndarray) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "encode_image", fail)
    with refused("a.zip", error=OSError):
        write_images(target, [pixels()])
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [Path(target)]
