"""Images as the bytes of an answer: PNG or WebP, a moving GIF, an array, or raw pixels inside JSON."""

import base64
import io
from typing import Any

import numpy as np

from d2o.data.files import grid
from d2o.pages import encode_image, to_image

MEDIA_TYPES = {"png": "image/png", "webp": "image/webp", "npy": "application/octet-stream"}
FRAMES_PER_SECOND = 12
GIF_SIDE = 256
"""Pixels to which the frames of a GIF are enlarged."""


def encode(images: np.ndarray, kind: str) -> bytes:
    """Return uint8 images [N,H,W,C] as an .npy file, or as a picture: one as it is, several as a grid without gaps."""
    if kind != "npy":
        return encode_image(images[0] if len(images) == 1 else grid(images, scale=1, gap=0), kind.upper())
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    return buffer.getvalue()


def encode_gif(frames: np.ndarray) -> bytes:
    """Return uint8 frames [N,H,W,C] as a GIF that goes there and back without end."""
    _, height, width, _ = frames.shape
    times = max(1, GIF_SIDE // max(height, width))
    there = [to_image(frame).resize((width * times, height * times), resample=3) for frame in frames]  # bicubic
    buffer = io.BytesIO()
    rest, duration = [*there[1:], *there[-2:0:-1]], round(1000 / FRAMES_PER_SECOND)
    there[0].save(buffer, "GIF", save_all=True, append_images=rest, duration=duration, loop=0)
    return buffer.getvalue()


def picture_record(pixels: np.ndarray) -> dict[str, Any]:
    """Return uint8 [H,W,C] as JSON, for a page that draws the pixels itself."""
    return {"shape": pixels.shape, "pixels": base64.b64encode(pixels.tobytes()).decode()}
