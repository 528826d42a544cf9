"""Pictures as data addresses: the page gets them inside its answers, and no file is written or served."""

import base64
import io
from collections.abc import Sequence

import numpy as np

SMALL = 64
"""Images up to this side are enlarged by repeating pixels: smoothing would hide what was made."""
GIF_SIDE = 256


def png(pixels: np.ndarray, largest: int | None = None) -> str:
    """Return uint8 [H,W,C] as the data address of a PNG, brought down to `largest` pixels a side if it is larger."""
    image = as_image(pixels)
    if largest is not None and max(image.size) > largest:
        image.thumbnail((largest, largest))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return address(buffer, "png")


def gif(frames: np.ndarray, frames_per_second: float) -> str:
    """Return uint8 [N,H,W,C] as the data address of a GIF that goes there and back without end."""
    times = max(1, GIF_SIDE // max(frames.shape[1:3]))
    enlarged = frames.repeat(times, axis=1).repeat(times, axis=2)
    there = [as_image(frame) for frame in enlarged]
    buffer = io.BytesIO()
    there[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=[*there[1:], *there[-2:0:-1]],
        duration=max(20, round(1000 / frames_per_second)),
        loop=0,
    )
    return address(buffer, "gif")


def as_image(pixels: np.ndarray):
    """Return uint8 [H,W,C] as an image of Pillow."""
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def address(buffer: io.BytesIO, kind: str) -> str:
    """Return the bytes of a picture as a data address."""
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def img(source: str, alt: str, side: int) -> str:
    """Return an <img>; `side` is that of the image itself, and decides whether its pixels are shown as they are."""
    return f'<img class="{"pixels" if side <= SMALL else "smooth"}" alt="{alt}" src="{source}">'


def figure(source: str, alt: str, side: int, caption: str, style: str) -> str:
    """Return a picture with its caption as HTML; `caption` is HTML."""
    return f'<figure class="card {style}">{img(source, alt, side)}<figcaption>{caption}</figcaption></figure>'


def strip(rows: Sequence[tuple[str, Sequence[tuple[np.ndarray, str]]]], columns: int, side: int) -> str:
    """Return rows of small pictures, each with a title for the pointer, as HTML; columns not yet there stay empty."""
    cells = ""
    for title, pictures in rows:
        cells += f'<div class="title">{title}</div>'
        cells += "".join(
            f'<span title="{hint}">{img(png(pixels, SMALL), hint, side)}</span>' for pixels, hint in pictures
        )
        cells += '<span class="empty"></span>' * (columns - len(pictures))
    return f'<div class="strip" style="--columns: {columns}">{cells}</div>'
