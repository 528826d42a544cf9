"""Evaluations as a plain-text table that says how its numbers are to be read."""

import textwrap
from collections.abc import Iterable, Sequence

from .distances import Distances
from .diversity import Diversity
from .evaluation import Evaluation, Pairs
from .spaces import frechet_name, title

WIDTH = 100


def report(evaluations: Sequence[Evaluation]) -> str:
    """Return one table for each reference and feature space, with the floor, explanations and warnings."""
    groups: dict[tuple, list[Evaluation]] = {}
    for evaluation in evaluations:
        groups.setdefault((evaluation.reference, evaluation.space, evaluation.floor), []).append(evaluation)
    return "\n\n".join(_section(group) for group in groups.values())


def _section(group: Sequence[Evaluation]) -> str:
    first = group[0]
    frechet = frechet_name(first.space)
    header = ("", "N", "KID", "+- sd", frechet, "precision", "recall", "pixel sd", "within", "feature dist.", "within")
    rows = [(e.name, *_numbers(e.distances), *_variety(e.diversity)) for e in group]
    if first.floor is not None:
        rows.append(("floor: reference v itself", *_numbers(first.floor), *_variety(Diversity())))
    rows.append(("reference", *_numbers(None), *_variety(first.reference_diversity)))
    lines = [_title(group), "", *_align([header, *rows]), ""]
    lines += _wrapped(_explanations(first, frechet))
    lines += [line for e in group if e.pairs is not None for line in _wrapped([_pairs(e, e.pairs)])]
    return "\n".join(lines + _wrapped(dict.fromkeys(f"Warning: {warning}" for e in group for warning in e.warnings)))


def _title(group: Sequence[Evaluation]) -> str:
    first, floor = group[0], group[0].floor
    heading = f"{frechet_name(first.space)} in {title(first.space)}"
    counts = dict.fromkeys(_count(evaluation.distances.images) for evaluation in group)
    sizes = f"N = {' and '.join(counts)} against {_count(first.distances.reference_images)} of {first.reference}"
    if floor is None:
        return f"{heading}; {sizes}; no reference-v-reference floor"
    return f"{heading}; {sizes}; reference-v-reference floor {floor.frechet:.4g} (N = {_count(floor.images)})"


def _explanations(evaluation: Evaluation, frechet: str) -> list[str]:
    lines = [
        f"{frechet} grows as N shrinks: compare it only at one N, and with the floor. KID is unbiased, near 0 (also "
        "below) for equal distributions; its sd is over random subsets. Pixel sd and feature dist. say how "
        "much the images vary, also within classes where they are known: a collapse shows there and in recall first."
    ]
    scores, floor = evaluation.distances, evaluation.floor
    if floor is not None and floor.images != scores.images:
        lines.append(f"The floor's N is {_count(floor.images)}, as the reference has too few images for two sets of N.")
    return lines


def _pairs(evaluation: Evaluation, pairs: Pairs) -> str:
    within = (evaluation.diversity.feature_distance_within, evaluation.reference_diversity.feature_distance_within)
    classes = within != (None, None) or pairs.unpaired_pixels is None
    others = "different seeds of a class" if classes else "different seeds"
    return (
        f"Same seeds, {evaluation.name} and {evaluation.reference}: pixels {pairs.pixels:.4g} apart ({others} "
        f"{_number(pairs.unpaired_pixels, '.4g')}), features {pairs.features:.4g} ({others} "
        f"{_number(pairs.unpaired_features, '.4g')})."
    )


def _numbers(scores: Distances | None) -> tuple[str, ...]:
    if scores is None:
        return ("",) * 6
    spread = (_number(scores.kid, ".4f"), _number(scores.kid_deviation, ".4f"))
    shares = (_number(scores.precision, ".3f"), _number(scores.recall, ".3f"))
    return (_count(scores.images), *spread, f"{scores.frechet:.4g}", *shares)


def _variety(diversity: Diversity) -> tuple[str, ...]:
    pixels = (diversity.pixel_deviation, diversity.pixel_deviation_within)
    features = (diversity.feature_distance, diversity.feature_distance_within)
    return (*(_number(value, ".3f") for value in pixels), *(_number(value, ".4g") for value in features))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _count(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    kept = [column for column in zip(*rows, strict=True) if any(cell not in ("", "-") for cell in column[1:])]
    widths = [max(map(len, column)) for column in kept]
    aligned = [[kept[0][i].ljust(widths[0])] + [c[i].rjust(w) for c, w in zip(kept[1:], widths[1:], strict=True)]
               for i in range(len(rows))]  # fmt: skip
    return ["  ".join(cells).rstrip() for cells in aligned]


def _wrapped(sentences: Iterable[str]) -> list[str]:
    return [line for sentence in sentences for line in textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")]
