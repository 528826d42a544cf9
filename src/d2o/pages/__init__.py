"""Pages of HTML that need nothing else: one style, with figures, tables and pictures inside."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

STYLE = resources.files(__name__).joinpath("style.css").read_text("utf-8")
"""The look of every page of d2o: light and dark, wide and narrow."""
DOTS = 300
"""Dots an inch of a figure's PNG."""


def page(title: str, body: str) -> str:
    """Return a whole page; `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def figure(source: str, title: str, caption: str = "", *, kind: str = "") -> str:
    """Return a picture at a (data) address with its title and caption; `kind` is a class of the style."""
    words = f"<b>{escape(title)}</b>" + (f"<br>{escape(caption)}" if caption else "")
    start = f'<figure class="{kind}">' if kind else "<figure>"
    return f'{start}<img alt="{escape(title)}" src="{source}"><figcaption>{words}</figcaption></figure>'


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with its title."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><caption>{escape(title)}</caption><tr>{head}</tr>{body}</table></div>'


def bullets(sentences: Iterable[str]) -> str:
    """Return sentences as the items of a list."""
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def to_image(pixels: np.ndarray) -> "Image":
    """Return uint8 [H,W,C] as a picture of Pillow."""
    from PIL import Image

    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def encode_image(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """Return uint8 [H,W,C] as the bytes of a PNG, or a lossless WebP."""
    buffer = io.BytesIO()
    to_image(pixels).save(buffer, kind, lossless=True)  # which a PNG is anyway
    return buffer.getvalue()


def encode_figure(drawing: "Figure", kind: str = "png") -> bytes:
    """Return a figure as the bytes of a PNG or SVG file; the same figure always gives the same bytes."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "d2o", "svg.fonttype": "none"}):
        drawing.savefig(buffer, format=kind, dpi=DOTS, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def data_address(content: bytes, kind: str = "image/png") -> str:
    """Return bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
