"""Formats, orientations, transparency and colours of cameras and programs: as they are meant, or asked about."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.features
import pytest
from PIL import Image, ImageCms, ImageOps

from d2o.data.datasets import open_images
from d2o.data.decoding import ORIENTATION
from d2o.data.sources import SUFFIXES

from .making import encode, make_folder, make_parquet, make_zip, random_pixels
from .test_sources import refuse

AVIF = pytest.mark.skipif(not PIL.features.check("avif"), reason="Pillow was built without AVIF")
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "BMP": {}, "DIB": {}}
QUADRANTS = np.array([[10, 80], [160, 240]], np.uint8).repeat(8, 0).repeat(8, 1)[..., None].repeat(3, 2)


def save(path: Path, image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(path, format=kind, **options)
    return path.parent


def tag(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


# The four quadrants, row by row, of an upright image whose file has 0 1 / 2 3.
UPRIGHT = {1: "0123", 2: "1032", 3: "3210", 4: "2301", 5: "0213", 6: "2031", 7: "3120", 8: "1302"}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "LZW", pytest.param("AVIF", marks=AVIF)])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_orientation_is_set_upright(tmp_path, orientation, kind):
    options = {"LZW": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(kind, {})
    folder = save(
        tmp_path / "a" / "a.png", QUADRANTS, "TIFF" if kind == "LZW" else kind, exif=tag(orientation), **options
    )
    found = open_images(folder).pixels([0])[0, 4::8, 4::8, 0].ravel()
    expected = QUADRANTS[::8, ::8, 0].ravel()[[int(place) for place in UPRIGHT[orientation]]]
    assert np.abs(found.astype(int) - expected).max() <= 4, found


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_turned_size_is_the_size(tmp_path, orientation, kind):
    pixels = np.zeros((8, 12, 3), np.uint8)
    folder = save(tmp_path / "a" / "a.png", pixels, kind, exif=tag(orientation))
    refuse(folder, "8x12" if orientation > 4 else "12x8", "not square")
    crop = open_images(folder, resolution=8, resize="center-crop").pixels([0])
    assert crop.shape == (1, 8, 8, 3)


def test_an_orientation_may_stand_in_xmp_or_behind_the_pixels(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(QUADRANTS).save(buffer, "PNG", exif=tag(6))
    content = buffer.getvalue()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    late = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    save(tmp_path / "a" / "b.webp", QUADRANTS, "WEBP", lossless=True, xmp=xmp)
    images = open_images(make_folder(tmp_path / "a", {"a.png": late}))
    for found in images.pixels([0, 1]):
        assert np.array_equal(found, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content)))))


def test_an_unknown_orientation_changes_nothing(tmp_path):
    for orientation in (0, 9, 65535):
        folder = save(tmp_path / "a" / f"{orientation}.png", QUADRANTS, exif=tag(orientation))
    assert (open_images(folder).pixels(range(3)) == QUADRANTS).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_read(tmp_path, suffix):
    if suffix == ".avif" and not PIL.features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    Image.init()
    kind = Image.EXTENSION.get(suffix, "JPEG")  # Pillow does not know .jif
    save(tmp_path / "a" / f"x{suffix.upper()}", QUADRANTS, kind)
    for path in (
        tmp_path / "a",
        make_zip(tmp_path / "a.zip", {f"x{suffix}": (tmp_path / "a" / f"x{suffix.upper()}").read_bytes()}),
    ):
        images = open_images(path)
        assert np.abs(images.pixels([0])[0, 4::8, 4::8].astype(int) - QUADRANTS[4::8, 4::8]).max() <= 8


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", pytest.param("AVIF", marks=AVIF)])
@pytest.mark.parametrize("whole", [False, True])
def test_several_frames_are_refused(tmp_path, kind, whole, monkeypatch):
    frames = [Image.fromarray(pixels) for pixels in random_pixels(3, 16)]
    folder = save(tmp_path / "a" / "b.png", frames[0], kind, save_all=True, append_images=frames[1:])
    if whole:  # not among the headers that are read at opening
        monkeypatch.setattr("d2o.data.datasets.CHECKED", 1)
        make_folder(folder, {"a.png": encode(QUADRANTS)})
        images = open_images(folder)
        with pytest.raises(ValueError, match=r"b\.png.*frame"):
            images.pixels([1])
    else:
        refuse(folder, "b.png", "more than one frame", "save")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_one_frame_is_an_image(tmp_path, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    folder = save(tmp_path / "a" / "b.png", QUADRANTS, kind, save_all=True, **options)
    assert np.array_equal(open_images(folder).pixels([0])[0], QUADRANTS)


def test_a_photo_with_previews_is_the_photo(tmp_path):
    frames = [Image.fromarray(pixels) for pixels in (QUADRANTS, QUADRANTS[::2, ::2])]
    folder = save(tmp_path / "a" / "a.jpg", frames[0], "MPO", save_all=True, append_images=frames[1:], quality=100)
    assert np.abs(open_images(folder).pixels([0])[0].astype(int) - QUADRANTS).max() <= 2


def with_alpha(mode: str, colours: np.ndarray, alpha: np.ndarray) -> tuple[Image.Image, dict[str, Any]]:
    """Return an image of a mode, and how to save it; tRNS makes one colour transparent, so alpha must be 0 or 255."""
    if mode == "RGBA":
        return Image.fromarray(np.dstack([colours, alpha])), {}
    if mode == "LA":
        return Image.fromarray(np.dstack([colours[..., 0], alpha])), {}
    index = Image.fromarray((alpha == 0).astype(np.uint8))
    if mode in ("P", "P of bytes"):
        index = index.convert("P")
        index.putpalette([*colours[alpha != 0][0], *colours[alpha == 0][0]])
        return index, {"transparency": 1 if mode == "P" else b"\xff\x00"}
    hidden = tuple(map(int, colours[alpha == 0][0]))
    image = Image.fromarray(colours)
    return (image, {"transparency": hidden}) if mode == "RGB" else (image.convert("L"), {"transparency": hidden[0]})


HIDDEN, SHOWN = (90, 90, 90), (30, 30, 30)
ALPHA = np.zeros((8, 8), np.uint8)
ALPHA[2:6, 2:6] = 255
COLOURS = np.where(ALPHA[..., None], np.array(SHOWN, np.uint8), np.array(HIDDEN, np.uint8))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P of bytes", "RGB", "L"])
def test_transparency_is_asked_about(tmp_path, mode):
    image, options = with_alpha(mode, COLOURS, ALPHA)
    folder = save(tmp_path / "a" / "a.png", image, **options)
    shape = (1 if mode in ("LA", "L") else 3, 8, 8)
    for channels in ({}, {"channels": 3}, {"channels": 1}):
        refuse(folder, "a.png", "transparency", "--background", "none", **channels)
    for background, corner in (("white", 255), ("black", 0), ("grey", 128), ("#0a0a0a", 10), ("none", HIDDEN[0])):
        images = open_images(folder, background=background)
        assert images.shape == shape
        assert (images.pixels([0])[0, 0, 0] == corner).all() and (images.pixels([0])[0, 4, 4] == SHOWN[0]).all()
    coloured = open_images(folder, background="#102030", channels=3).pixels([0])[0]
    assert coloured[0, 0].tolist() == [16, 32, 48] and coloured[4, 4].tolist() == list(SHOWN)


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "TIFF"])
def test_transparency_of_other_formats(tmp_path, kind):
    image, options = with_alpha("P" if kind == "GIF" else "RGBA", COLOURS, ALPHA)
    folder = save(
        tmp_path / "a" / "a.png", image, kind, **options | ({"lossless": True, "exact": True} if kind == "WEBP" else {})
    )
    refuse(folder, "a.png", "--background")
    expected = np.where(ALPHA[..., None], SHOWN[0], 255).repeat(3, 2)
    assert np.array_equal(open_images(folder, background="white").pixels([0])[0], expected)
    assert np.array_equal(open_images(folder, background="none").pixels([0])[0], COLOURS)


def test_arrays_with_alpha(tmp_path):
    pixels = np.dstack([COLOURS, ALPHA])[None]
    np.savez(tmp_path / "a.npz", images=pixels)
    rows = [{"bytes": encode(pixels[0]), "path": None}]
    for path in (tmp_path / "a.npz", make_parquet(tmp_path / "a.parquet", {"image": rows})):
        refuse(path, "--background")
        assert open_images(path, background="white").pixels([0])[0, 0, 0].tolist() == [255] * 3


@pytest.mark.parametrize("level", [0, 1, 37, 128, 200, 255])
def test_every_blend_is_rounded_to_the_nearest(tmp_path, level):
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256))
    pixels = np.dstack([colour] * 3 + [alpha]).astype(np.uint8)
    found = open_images(
        make_folder(tmp_path / "a", {"a.png": encode(pixels)}), background=f"#{level:02x}{level:02x}{level:02x}"
    )
    exact = (colour * alpha + level * (255 - alpha)) / 255
    assert np.array_equal(found.pixels([0])[0], np.floor(exact + 0.5)[..., None].repeat(3, 2))


def test_a_blend_by_hand(tmp_path):
    pixels = np.array([[[200, 100, 0, 51]]], np.uint8).repeat(2, 0).repeat(2, 1)  # a fifth of the colour
    images = open_images(make_folder(tmp_path, {"a.png": encode(pixels)}), background="#ff8010")
    assert images.pixels([0])[0, 0, 0].tolist() == [244, 122, 13]  # 40 + 204, 20 + 102.4, 0 + 12.8


@pytest.mark.parametrize("background", ["purple-ish", "#12", "#12345g", "12345678", ""])
def test_backgrounds_that_are_none(background):
    refuse("digits", "--background", "white", "none", background=background)


def test_the_colours_of_print_are_explained(tmp_path):
    image = Image.fromarray(QUADRANTS).convert("CMYK")
    folder = save(tmp_path / "a" / "a.png", image, "TIFF")
    refuse(folder, "a.png", "CMYK", "--channels 3")
    images = open_images(folder, channels=3)
    assert images.shape == (3, 16, 16)
    assert np.array_equal(images.pixels([0])[0], np.asarray(image.convert("RGB")))
    assert open_images(folder, channels=1).shape == (1, 16, 16)


def test_cmyk_of_a_camera_program(tmp_path):
    folder = save(tmp_path / "a" / "a.jpg", Image.fromarray(QUADRANTS).convert("CMYK"), "JPEG", quality=100)
    refuse(folder, "CMYK", "profile", "--channels 3")
    assert np.abs(open_images(folder, channels=3).pixels([0])[0].astype(int) - QUADRANTS).max() <= 3


def test_lab_is_left_to_programs_that_know_it(tmp_path):
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.fromarray(QUADRANTS), to_lab)
    assert lab is not None
    folder = save(tmp_path / "a" / "a.tif", lab, "TIFF")
    for options in ({}, {"channels": 3}, {"channels": 1}):
        refuse(folder, "a.tif", "LAB", "save it as RGB", **options)


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "TIFF"), ("F", "TIFF"), ("I", "TIFF")])
def test_deep_tiffs_are_refused(tmp_path, mode, kind):
    folder = save(tmp_path / "a" / "a.tif", Image.new(mode, (8, 8)), kind)
    refuse(folder, "a.tif", "8 bits")
    refuse(folder, "a.tif", "8 bits", channels=3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_one_bit_is_black_and_white(tmp_path, kind):
    bits = np.indices((8, 8)).sum(0) % 3 == 0
    images = open_images(save(tmp_path / "a" / "a.png", Image.fromarray(bits), kind))
    assert images.shape == (1, 8, 8) and np.array_equal(images.pixels([0])[0, ..., 0], bits * 255)
