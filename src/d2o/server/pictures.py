"""Images as the bytes of an answer: PNG or WebP, a moving GIF, an array, or raw pixels inside JSON."""

import base64
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from d2o.data.files import grid
from d2o.pages import encode_image

GIF_SIDE = 256
"""Pixels to which the frames of a GIF are enlarged."""


class Format(NamedTuple):
    """How uint8 images [N,H,W,C] become bytes, and what HTTP calls them."""

    encode: Callable[[np.ndarray], bytes]
    media_type: str


def encode_grid(images: np.ndarray, kind: str) -> bytes:
    """Return one image as it is, several as a grid without gaps."""
    return encode_image(images[0] if len(images) == 1 else grid(images, scale=1, gap=0), kind)


def encode_array(images: np.ndarray) -> bytes:
    """Return the images as an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    return buffer.getvalue()


FORMATS = {
    "png": Format(lambda images: encode_grid(images, "PNG"), "image/png"),
    "webp": Format(lambda images: encode_grid(images, "WEBP"), "image/webp"),
    "npy": Format(encode_array, "application/octet-stream"),
}


def encode_gif(frames: np.ndarray, frames_per_second: float) -> bytes:
    """Return uint8 frames [N,H,W,C] as a GIF that goes there and back without end."""
    from PIL import Image

    times = max(1, GIF_SIDE // max(frames.shape[1:3]))
    size = (frames.shape[2] * times, frames.shape[1] * times)
    there = [
        Image.fromarray(frame.squeeze(-1) if frame.shape[-1] == 1 else frame).resize(size, Image.Resampling.BICUBIC)
        for frame in frames
    ]
    buffer = io.BytesIO()
    rest, duration = [*there[1:], *there[-2:0:-1]], round(1000 / frames_per_second)
    there[0].save(buffer, "GIF", save_all=True, append_images=rest, duration=duration, loop=0)
    return buffer.getvalue()


def picture_record(pixels: np.ndarray) -> dict[str, Any]:
    """Return uint8 [H,W,C] as JSON, for a page that draws the pixels itself."""
    return {"shape": pixels.shape, "pixels": base64.b64encode(pixels.tobytes()).decode()}
