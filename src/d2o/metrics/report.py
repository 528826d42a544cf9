"""Evaluations as a plain-text table that says how its numbers are to be read."""

import textwrap
from collections.abc import Sequence
from typing import Any

from .evaluation import Evaluation
from .spaces import frechet_name, title

WIDTH = 100
DISTANCES = (
    ("N", "images", ","),
    ("KID", "kid", ".4f"),
    ("+- sd", "kid_deviation", ".4f"),
    ("Frechet distance", "frechet", ".4g"),
    ("precision", "precision", ".3f"),
    ("recall", "recall", ".3f"),
)
DIVERSITY = (
    ("pixel sd", "pixel_deviation", ".3f"),
    ("within", "pixel_deviation_within", ".3f"),
    ("feature dist.", "feature_distance", ".4g"),
    ("within", "feature_distance_within", ".4g"),
)
"""Columns: heading, field of the record, format."""


def report(evaluations: Sequence[Evaluation]) -> str:
    """Return the table of evaluations against one reference, with the floor, explanations and warnings."""
    first, frechet = evaluations[0], frechet_name(evaluations[0].space)
    header = ["", *(frechet if field == "frechet" else heading for heading, field, _ in DISTANCES + DIVERSITY)]
    rows: list[tuple[str, Any, Any]] = [(one.name, one.distances, one.diversity) for one in evaluations]
    rows += [("floor: reference vs itself", first.floor, None)] if first.floor else []
    rows += [("reference", None, first.reference_diversity)]
    cells = [[name, *format_cells(near, DISTANCES), *format_cells(wide, DIVERSITY)] for name, near, wide in rows]
    sentences = [
        f"{frechet} grows as N shrinks: compare it only at one N, and with the floor. KID is unbiased, near 0 (also "
        "below) for equal distributions; its sd is over random subsets. Pixel sd and feature dist. show how much "
        "the images vary, also within known classes: a collapse shows there and in recall first.",
        *(describe_pairs(one) for one in evaluations if one.pairs is not None),
        *dict.fromkeys(f"Warning: {warning}" for one in evaluations for warning in one.warnings),
    ]
    if first.floor and first.floor.images != first.distances.images:
        few = f"The floor's N is {first.floor.images:,}, as the reference has too few images for two sets of N."
        sentences.insert(1, few)
    lines = [line for text in sentences for line in textwrap.wrap(text, WIDTH, subsequent_indent="  ")]
    return "\n".join([describe_title(evaluations), "", *align([header, *cells]), "", *lines])


def describe_title(evaluations: Sequence[Evaluation]) -> str:
    first, floor = evaluations[0], "no reference-vs-reference floor"
    counts = " and ".join(dict.fromkeys(format_number(one.distances.images, ",", "unknown") for one in evaluations))
    reference = f"{format_number(first.distances.reference_images, ',', 'unknown')} of {first.reference}"
    if first.floor:
        floor = f"reference-vs-reference floor {first.floor.frechet:.4g} (N = {first.floor.images:,})"
    return f"{frechet_name(first.space)} in {title(first.space)}; N = {counts} against {reference}; {floor}"


def describe_pairs(evaluation: Evaluation) -> str:
    pairs, diversities = evaluation.pairs, (evaluation.diversity, evaluation.reference_diversity)
    assert pairs is not None
    classes = pairs.unpaired_pixels is None or any(one.feature_distance_within is not None for one in diversities)
    others = "different seeds of a class" if classes else "different seeds"
    return (
        f"Images from the same seeds, {evaluation.name} and {evaluation.reference}: pixels "
        f"{pairs.pixels:.4g} apart ({others} {format_number(pairs.unpaired_pixels, '.4g')}), features "
        f"{pairs.features:.4g} ({others} {format_number(pairs.unpaired_features, '.4g')})."
    )


def format_cells(record: Any, columns: Sequence[tuple[str, str, str]]) -> list[str]:
    return ["" if record is None else format_number(getattr(record, field), form) for _, field, form in columns]


def format_number(value: float | None, form: str, none: str = "-") -> str:
    return none if value is None else format(value, form)


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table without its empty columns, the first to the left and the others to the right."""
    columns = [column for column in zip(*rows, strict=True) if any(cell not in ("", "-") for cell in column[1:])]
    widths = [max(map(len, column)) for column in columns]
    rows = [[cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])] for cells in zip(*columns, strict=True)]
    return ["  ".join(cells).rstrip() for cells in rows]
