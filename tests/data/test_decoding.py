"""Pixels come out as they were stored, unless a change was asked for; hostile files end in a clear error."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from d2o.data.datasets import open_images
from d2o.data.decoding import RESIZE
from refusal import refused

from .making import encode, make_folder, make_zip, named, random_pixels
from .test_sources import refuse


def oblong(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_area_is_the_exact_mean(tmp_path, factor):
    pixels = random_pixels(20, 12, 3)
    images = open_images(make_zip(tmp_path / "a.zip", named(pixels)), resolution=12 // factor, resize="area")
    order = [int(name[3:-4]) for name in images.cache.decode.source.names]
    blocks = pixels[order].reshape(20, 12 // factor, factor, 12 // factor, factor, 3).astype(int).sum((2, 4))
    expected = np.floor(blocks / factor**2 + 0.5)
    assert images.shape == (3, 12 // factor, 12 // factor)
    assert np.array_equal(images.pixels(range(20)), expected)


@pytest.mark.parametrize("resize", RESIZE)
@pytest.mark.parametrize("resolution", [3, 5, 8, 16])
def test_every_resize_keeps_a_flat_image_flat(tmp_path, resize, resolution):
    np.savez(tmp_path / "a.npz", images=np.full((2, 8, 8, 3), (9, 100, 255), np.uint8))
    images = open_images(tmp_path / "a.npz", resolution=resolution, resize=resize)
    assert images.pixels([0, 1]).shape == (2, resolution, resolution, 3)
    assert (images.pixels([0, 1]) == (9, 100, 255)).all()


@pytest.mark.parametrize("resize", ["bilinear", "lanczos", "area"])
def test_shrinking_does_not_fold(tmp_path, resize):
    """The finest chequerboard becomes grey, not a chequerboard."""
    board = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=board[None])
    small = open_images(tmp_path / "a.npz", resolution=8, resize=resize).pixels([0])
    assert np.abs(small[:, 2:-2, 2:-2].astype(float) - 127.5).max() < 8


def test_center_crop_takes_the_middle(tmp_path):
    wide, tall = oblong(8, 20), oblong(13, 8)
    path = make_folder(tmp_path / "mixed", {"a.png": encode(wide), "b.png": encode(tall)})
    images = open_images(path, resolution=8, resize="center-crop")
    assert np.array_equal(images.pixels([0, 1]), np.stack([wide[:, 6:14], tall[2:10]]))


def test_mixed_sizes_name_two_files_and_the_remedy(tmp_path):
    files = {"a.png": encode(oblong(8, 8)), "b.png": encode(oblong(16, 16))}
    path = make_zip(tmp_path / "a.zip", files)
    refuse(path, "a.png is 8x8", "b.png is 16x16", "--resolution N --resize center-crop")
    assert open_images(path, resolution=8, resize="area").shape == (3, 8, 8)


def test_oblong_images_need_a_crop(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"a.png": encode(oblong(8, 10)), "b.png": encode(oblong(8, 10))})
    for options in ({}, {"resolution": 8}, {"resolution": 8, "resize": "area"}):
        refuse(path, "a.png", "10x8", "not square", "center-crop", **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"resolution": 4}, "--resize"),
        ({"resize": "area"}, "--resolution"),
        ({"resize": "magic", "resolution": 4}, "center-crop"),
        ({"resolution": 0, "resize": "area"}, "out of range"),
        ({"resolution": -8, "resize": "area"}, "out of range"),
        ({"channels": 4}, "--channels"),
    ],
)
def test_options_that_make_no_sense(options, says):
    refuse("digits", says, **options)


def test_resolution_alone_is_a_check():
    assert open_images("digits", resolution=8).shape == (1, 8, 8)


def test_grey_and_colour_do_not_mix(tmp_path):
    grey, colour = random_pixels(1, 8, 1)[0], random_pixels(1, 8, 3)[0]
    path = make_zip(tmp_path / "a.zip", {"a.png": encode(grey), "b.png": encode(colour)})
    refuse(path, "a.png", "b.png", "--channels 3")
    both = open_images(path, channels=3)
    assert both.shape == (3, 8, 8)
    assert np.array_equal(both.pixels([0, 1]), np.stack([grey.repeat(3, axis=-1), colour]))
    assert open_images(path, channels=1).pixels([0, 1]).shape == (2, 8, 8, 1)


def test_palettes_become_colour(tmp_path):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [7, 7, 7]], np.uint8)
    pixels = colours[np.random.default_rng(0).integers(0, 4, (8, 8))]
    image, buffer = Image.fromarray(pixels).quantize(4), io.BytesIO()
    image.save(buffer, format="PNG")
    images = open_images(make_folder(tmp_path, {"a.png": buffer.getvalue(), "b.png": encode(pixels)}))
    assert np.array_equal(images.pixels([0, 1]), np.stack([pixels, pixels]))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def hand_made_png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused(tmp_path, colour, samples):
    png = hand_made_png(4, 4, 16, colour, (b"\0" + b"\1\2" * samples * 4) * 4)
    path = make_folder(tmp_path, {"a.png": png})
    refuse(path, "a.png", "8 bits")
    refuse(path, "a.png", "8 bits", channels=3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [20_000, 10_000, 2**31 - 1])
def test_bombs_are_refused_before_they_are_unpacked(tmp_path, side):
    refuse(make_folder(tmp_path, {"a.png": hand_made_png(side, side, 8, 0, b"")}), "a.png", "pixels")


def test_images_without_pixels_are_refused(tmp_path):
    refuse(make_folder(tmp_path, {"a.png": hand_made_png(0, 4, 8, 0, b"")}), "a.png")
    refuse(make_zip(tmp_path / "a.zip", {"b.png": b""}), "b.png in")


def test_other_content_behind_an_image_name(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(oblong(8, 8)).save(buffer, format="PPM")
    refuse(make_zip(tmp_path / "a.zip", {"x.png": buffer.getvalue()}), "x.png in", "not one of PNG")


def test_damage_in_a_zip_is_found_at_opening_and_named(tmp_path):
    path = make_zip(tmp_path / "a.zip", named(random_pixels(3)))
    content = bytearray(path.read_bytes())
    content[content.index(b"img1.png") + 60] ^= 255
    path.write_bytes(content)
    refuse(path, "img1.png in", "CRC")


def test_damage_behind_the_header_is_found_at_its_batch(tmp_path):
    files = named(random_pixels(3, 32))
    files["img1.png"] = files["img1.png"][:-500]
    images = open_images(make_folder(tmp_path, files))
    assert images.pixels([0, 2]).shape == (2, 32, 32, 3)
    with refused("img1.png"):
        images.pixels([0, 1])


def test_a_late_odd_size_is_found_at_its_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("d2o.data.datasets.CHECKED", 2)  # the first and the last
    files = named(random_pixels(3))
    files["img1.png"] = encode(oblong(4, 4))
    images = open_images(make_zip(tmp_path / "a.zip", files))
    with refused("img0.png", "8x8", "img1.png", "4x4"):
        images.pixels([1])


PNG, JPEG = (encode(oblong(8, 8), kind=kind) for kind in ("PNG", "JPEG"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@settings(deadline=None, max_examples=150)
@given(st.sampled_from([PNG, JPEG]), st.data())
def test_any_damage_ends_in_pixels_or_in_a_named_error(tmp_path_factory, good, data):
    damaged = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(good)))]
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    try:
        images = open_images(
            make_folder(folder, {"a.png": bytes(damaged)}), resolution=8, resize="center-crop", channels=3
        )
        assert images.pixels([0]).shape == (1, 8, 8, 3)
    except ValueError as error:
        assert "a.png" in str(error)
