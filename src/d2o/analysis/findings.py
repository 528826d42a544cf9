"""What every study hands to its readers: sentences, tables, and numbers for JSON."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows under named columns; numbers are rounded when they are shown."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]

    def markdown(self) -> str:
        """Return the table as Markdown, which is also plain text that can be read."""
        cells = [[shown(cell) for cell in row] for row in self.rows]
        widths = [max(len(column), *(len(row[i]) for row in cells), 3) for i, column in enumerate(self.columns)]
        lines = [self.columns, ["-" * width for width in widths], *cells]
        body = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
        return "\n".join([f"**{self.title}**", "", *body])


@dataclass(frozen=True)
class Findings:
    """A finished study: its question, its answer in sentences, and what they rest on.

    `definitions` say how the numbers are made; `numbers` is JSON-able after `plain`.
    """

    kind: str
    title: str
    question: str
    conclusion: tuple[str, ...]
    tables: tuple[Table, ...]
    numbers: dict[str, Any]
    definitions: tuple[str, ...] = field(default=())

    def text(self) -> str:
        """Return conclusion and tables as Markdown."""
        answers = "\n".join(f"- {sentence}" for sentence in self.conclusion)
        return "\n\n".join([f"# {self.title}", self.question, answers, *(table.markdown() for table in self.tables)])

    def as_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, numbers and strings, for JSON."""
        tables = [
            {"title": t.title, "columns": list(t.columns), "rows": [list(row) for row in t.rows]} for t in self.tables
        ]
        return plain(
            {
                "study": self.kind,
                "title": self.title,
                "question": self.question,
                "conclusion": list(self.conclusion),
                "definitions": list(self.definitions),
                "tables": tables,
                **self.numbers,
            }
        )


def caution(repetitions: int, fewest: int = 2) -> list[str]:
    """Return a sentence of warning when fewer repetitions were made than can decide anything."""
    if repetitions == 1:
        return [
            f"One run each: how much another seed alone would change is not known; add --repetitions {max(fewest, 3)}."
        ]
    few = f"{repetitions} repetitions are too few to decide anything by their spread; add --repetitions {fewest}."
    return [few] if repetitions < fewest else []


def shown(cell: Cell) -> str:
    """Return a cell as people read it: three significant digits, a dash for what is not known."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def measured(mean: float | None, deviation: float | None) -> str:
    """Return a mean with its standard deviation as a cell."""
    return shown(mean) if deviation is None else f"{shown(mean)} ± {shown(deviation)}"


def plain(tree: Any) -> Any:
    """Return nested records as dicts, lists, numbers and strings; what is not finite becomes None."""
    if isinstance(tree, np.ndarray | np.generic):
        return plain(tree.tolist())
    if isinstance(tree, dict):
        return {str(key): plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(value) for value in tree]
    if isinstance(tree, float):
        return float(f"{tree:.6g}") if math.isfinite(tree) else None
    return tree
