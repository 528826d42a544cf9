"""Images as bytes of an answer: a grid as PNG or WebP, or the array itself."""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from d2o.data.files import grid


class Format(NamedTuple):
    """How uint8 images [N,H,W,C] become bytes, and what HTTP calls them."""

    encode: Callable[[np.ndarray], bytes]
    media_type: str


def picture(images: np.ndarray, kind: str) -> bytes:
    """Return one image as it is, several as a grid without gaps."""
    from PIL import Image

    pixels = images[0] if len(images) == 1 else grid(images, scale=1, gap=0)
    buffer = io.BytesIO()
    shown = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    shown.save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def array(images: np.ndarray) -> bytes:
    """Return the images as an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    return buffer.getvalue()


FORMATS = {
    "png": Format(lambda images: picture(images, "PNG"), "image/png"),
    "webp": Format(lambda images: picture(images, "WEBP"), "image/webp"),
    "npy": Format(array, "application/octet-stream"),
}
