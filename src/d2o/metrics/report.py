"""Evaluations as a plain-text table that says how its numbers are to be read."""

import textwrap
from collections.abc import Iterable, Sequence

from .distances import Distances
from .diversity import Diversity
from .evaluation import Evaluation
from .pairs import Pairs
from .spaces import frechet_name, title

WIDTH = 100


def report(evaluations: Sequence[Evaluation]) -> str:
    """Return one table for each reference and feature space, with the floor, explanations and warnings."""
    groups: dict[tuple, list[Evaluation]] = {}
    for one in evaluations:
        groups.setdefault((one.reference, one.space, one.floor), []).append(one)
    return "\n\n".join(map(describe, groups.values()))


def describe(group: Sequence[Evaluation]) -> str:
    first, frechet = group[0], frechet_name(group[0].space)
    header = ("", "N", "KID", "+- sd", frechet, "precision", "recall", "pixel sd", "within", "feature dist.", "within")
    rows = [header, *((one.name, *format_distances(one.distances), *format_diversity(one.diversity)) for one in group)]
    if first.floor is not None:
        rows.append(("floor: reference v itself", *format_distances(first.floor), *format_diversity(Diversity())))
    rows.append(("reference", *[""] * 6, *format_diversity(first.reference_diversity)))
    sentences = [
        *explain(first, frechet),
        *(describe_pairs(one, one.pairs) for one in group if one.pairs is not None),
        *dict.fromkeys(f"Warning: {warning}" for one in group for warning in one.warnings),
    ]
    lines = [line for text in sentences for line in textwrap.wrap(text, WIDTH, subsequent_indent="  ")]
    return "\n".join([describe_title(group), "", *align(rows), "", *lines])


def describe_title(group: Sequence[Evaluation]) -> str:
    first, floor = group[0], group[0].floor
    counts = dict.fromkeys(format_count(one.distances.images) for one in group)
    reference = f"{format_count(first.distances.reference_images)} of {first.reference}"
    end = f"reference-v-reference floor {floor.frechet:.4g} (N = {format_count(floor.images)})" if floor else ""
    return (
        f"{frechet_name(first.space)} in {title(first.space)}; N = {' and '.join(counts)} against {reference}; "
        f"{end or 'no reference-v-reference floor'}"
    )


def explain(evaluation: Evaluation, frechet: str) -> list[str]:
    lines = [
        f"{frechet} grows as N shrinks: compare it only at one N, and with the floor. KID is unbiased, near 0 (also "
        "below) for equal distributions; its sd is over random subsets. Pixel sd and feature dist. say how "
        "much the images vary, also within classes where they are known: a collapse shows there and in recall first."
    ]
    scores, floor = evaluation.distances, evaluation.floor
    if floor is not None and floor.images != scores.images:
        count = format_count(floor.images)
        lines.append(f"The floor's N is {count}, as the reference has too few images for two sets of N.")
    return lines


def describe_pairs(evaluation: Evaluation, pairs: Pairs) -> str:
    within = (evaluation.diversity.feature_distance_within, evaluation.reference_diversity.feature_distance_within)
    classes = within != (None, None) or pairs.unpaired_pixels is None
    others = "different seeds of a class" if classes else "different seeds"
    return (
        f"Same seeds, {evaluation.name} and {evaluation.reference}: pixels {pairs.pixels:.4g} apart ({others} "
        f"{format_number(pairs.unpaired_pixels, '.4g')}), features {pairs.features:.4g} ({others} "
        f"{format_number(pairs.unpaired_features, '.4g')})."
    )


def format_distances(scores: Distances) -> tuple[str, ...]:
    numbers = (scores.kid, scores.kid_deviation, scores.frechet, scores.precision, scores.recall)
    return (format_count(scores.images), *map(format_number, numbers, (".4f", ".4f", ".4g", ".3f", ".3f")))


def format_diversity(diversity: Diversity) -> Iterable[str]:
    pixels = (diversity.pixel_deviation, diversity.pixel_deviation_within)
    features = (diversity.feature_distance, diversity.feature_distance_within)
    return map(format_number, (*pixels, *features), (".3f", ".3f", ".4g", ".4g"))


def format_number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def format_count(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table without its empty columns, the first to the left and the others to the right."""
    columns = [column for column in zip(*rows, strict=True) if any(cell not in ("", "-") for cell in column[1:])]
    widths = [max(map(len, column)) for column in columns]
    rows = [[cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])] for cells in zip(*columns, strict=True)]
    return ["  ".join(cells).rstrip() for cells in rows]
