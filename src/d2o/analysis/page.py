"""A study on disk: results as JSON, every figure as PNG and SVG, and one HTML page that needs nothing else."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, NamedTuple

import d2o
from d2o.files import atomic, checked_folder

from .findings import Findings, Table, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = 300
"""Dots an inch of PNG figures, which are as wide as a column of a paper."""


class Drawing(NamedTuple):
    """A figure with its file name and its caption."""

    name: str
    caption: str
    figure: "Figure"


def write(directory: str | Path, found: Findings, drawings: Sequence[Drawing], origin: Mapping[str, object]) -> Path:
    """Write KIND.json, KIND-FIGURE.png and .svg, and KIND.html into a directory; return the page's path.

    `origin` says in JSON which models and data were studied, and how.
    """
    directory = checked_folder(directory)
    pictures = []
    for drawing in drawings:
        png = image(drawing.figure, "png")
        pictures.append((drawing, png))
        for suffix, data in (("png", png), ("svg", image(drawing.figure, "svg"))):
            with atomic(directory / f"{found.kind}-{drawing.name}.{suffix}") as temporary:
                temporary.write_bytes(data)
    with atomic(directory / f"{found.kind}.json") as temporary:
        record = {"d2o": d2o.__version__, "origin": dict(origin), **found.as_dict()}
        temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    page = directory / f"{found.kind}.html"
    with atomic(page) as temporary:
        temporary.write_text(html(found, pictures), "utf-8")
    return page


def html(found: Findings, pictures: Sequence[tuple[Drawing, bytes]]) -> str:
    """Return the page as text without outside references."""
    template = Template(resources.files("d2o.analysis").joinpath("page.html").read_text("utf-8"))
    return template.substitute(
        title=escape(found.title),
        question=escape(found.question),
        conclusion=items(found.conclusion),
        definitions=items(found.definitions),
        figures="".join(framed(drawing, png) for drawing, png in pictures),
        tables="".join(map(tabled, found.tables)),
        version=escape(d2o.__version__),
    )


def items(sentences: Sequence[str]) -> str:
    """Return sentences as the items of a list."""
    return "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)


def framed(drawing: Drawing, png: bytes) -> str:
    """Return a figure with its caption as HTML."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    caption = escape(drawing.caption)
    return f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>'


def tabled(table: Table) -> str:
    """Return a table as HTML."""
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = ("".join(f"<td>{escape(shown(cell))}</td>" for cell in row) for row in table.rows)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    caption = f"<caption>{escape(table.title)}</caption>"
    return f'<div class="table"><table>{caption}<tr>{head}</tr>{body}</table></div>'


def image(figure: "Figure", kind: str) -> bytes:
    """Return a figure as the bytes of a PNG or SVG file; the same figure always gives the same bytes."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "d2o", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=kind, dpi=DOTS, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
