"""Pictures inside addresses hold the pixels that were drawn."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image, ImageSequence

from d2o.app.pictures import gif, img, png, strip


def opened(address: str):
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_is_exact(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, channels), np.uint8)
    assert np.array_equal(np.asarray(opened(png(pixels))).reshape(pixels.shape), pixels)


def test_a_large_one_can_be_brought_down():
    assert opened(png(np.zeros((100, 50, 3), np.uint8), 64)).size == (32, 64)


@pytest.mark.parametrize(("frames", "shown"), [(2, 2), (5, 8)])
def test_a_gif_goes_there_and_back_without_end(frames, shown):
    levels = np.linspace(0, 255, frames).astype(np.uint8)
    picture = opened(gif(np.ones((frames, 8, 8, 1), np.uint8) * levels[:, None, None, None], 10))
    assert picture.format == "GIF" and picture.info["loop"] == 0 and picture.info["duration"] == 100
    seen = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(picture)]
    assert [int(frame[0, 0]) for frame in seen] == [*levels, *levels[-2:0:-1]] and len(seen) == shown
    assert seen[0].shape == (256, 256)


def test_only_small_images_show_their_pixels():
    assert 'class="pixels"' in img("x", "y", 64) and 'class="smooth"' in img("x", "y", 65)


def test_a_strip_keeps_the_place_of_what_is_to_come():
    html = strip([("row", [(np.zeros((8, 8, 1), np.uint8), "first")])], 5, 8)
    assert html.count("<img") == 1 and html.count('class="empty"') == 4 and re.search("--columns: 5", html)
