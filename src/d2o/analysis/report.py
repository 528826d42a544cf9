"""A finished study for its readers: tables, figures and numbers, on the terminal, as JSON, PNG, SVG and one page."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

import d2o
from d2o import pages
from d2o.files import atomic

from .frequency import Band
from .intervals import Interval, Numbers, spread

Cell = str | float | int | Band | Interval | None


class Table(NamedTuple):
    """Rows under named columns; numbers are rounded when they are shown."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]

    def markdown(self) -> str:
        cells = [self.columns, *(tuple(map(show, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [" | ".join(map(str.ljust, row, widths)) for row in (cells[0], ["-" * w for w in widths], *cells[1:])]
        return "\n".join([f"**{self.title}**", "", *(f"| {line} |" for line in lines)])


@dataclass(frozen=True)
class Report:
    """What a study measured: tables, figures of matplotlib, and `numbers` for JSON; its texts are in texts.yaml."""

    kind: str
    tables: tuple[Table, ...]
    figures: dict[str, Any]
    numbers: dict[str, Any]
    notes: tuple[str, ...] = ()

    @cached_property
    def words(self) -> dict[str, Any]:
        words = yaml.safe_load(resources.files("d2o.analysis").joinpath("texts.yaml").read_text("utf-8"))[self.kind]
        return {**words, "definitions": [*words["definitions"], *self.notes]}

    def text(self) -> str:
        tables = (table.markdown() for table in self.tables)
        return "\n\n".join([f"# {self.words['title']}", self.words["question"], *tables])

    def as_dict(self) -> dict[str, Any]:
        tables = [table._asdict() for table in self.tables]
        return plain({"study": self.kind, **self.words, "tables": tables, **self.numbers})

    def html(self) -> str:
        pictures = {name: pages.data_address(pages.encode_figure(figure)) for name, figure in self.figures.items()}
        figures = (pages.figure(png, name, self.words["captions"][name]) for name, png in pictures.items())
        tables = ((table.title, table.columns, (tuple(map(show, row)) for row in table.rows)) for table in self.tables)
        body = (
            f'<h1>{escape(self.words["title"])}</h1><p class="soft">{escape(self.words["question"])}</p>',
            f'<div class="figures">{"".join(figures)}</div>',
            *(pages.table(*table) for table in tables),
            f"<h2>Definitions</h2>{pages.bullets(self.words['definitions'])}",
            f'<p class="soft">Measured with d2o {d2o.__version__} on the models that {self.kind}.json names.</p>',
        )
        return pages.page(f"d2o: {self.words['title']}", "\n".join(body))

    def write(self, directory: str | Path, origin: Mapping[str, object]) -> Path:
        """Write KIND.json with its origin, KIND-FIGURE.png and .svg, and KIND.html, whose path is returned."""
        record = {"d2o": d2o.__version__, "origin": dict(origin), **self.as_dict()}
        files = {".json": (json.dumps(record, indent=1) + "\n").encode()}
        for name, figure in self.figures.items():
            files |= {f"-{name}.{kind}": pages.encode_figure(figure, kind) for kind in ("png", "svg")}
        for ending, content in {**files, ".html": self.html().encode()}.items():
            with atomic(Path(directory, self.kind + ending)) as temporary:
                temporary.write_bytes(content)
        return Path(directory, f"{self.kind}.html")


def show(cell: Cell) -> str:
    """Return a cell with three significant digits, or a dash for what is not known."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def show_mean(mean: float, deviation: float | None) -> str:
    return show(mean) if deviation is None or math.isnan(mean + deviation) else f"{show(mean)} ± {show(deviation)}"


def show_repetitions(values: Numbers) -> str | None:
    return show_mean(*spread(values)) if len(values) else None


def show_percent(share: float) -> str | None:
    return f"{share:.1%}" if math.isfinite(share) else None


def plain(tree: Any) -> Any:
    """Return nested records as dicts, lists, numbers and strings; what is not finite becomes None."""
    match tree:
        case np.ndarray() | np.generic():
            return plain(tree.tolist())
        case Band():
            return str(tree)
        case Interval():
            return plain(tree._asdict())
        case dict():
            return {str(key): plain(value) for key, value in tree.items()}
        case list() | tuple():
            return [plain(value) for value in tree]
        case float():
            return float(f"{tree:.6g}") if math.isfinite(tree) else None
    return tree
