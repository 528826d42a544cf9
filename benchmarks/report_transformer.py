"""The section of docs/results.md on a transformer: whether D2O and its freezings carry over from U-Nets."""

from pathlib import Path

from report_results import SPACES, Results, show, table
from study_figures import draw_curves, draw_gallery
from study_rows import TEACHER_STEPS, TRANSFORMER

from d2o.training.freezing import count_frozen, freeze
from d2o.training.networks import new_denoiser
from d2o.training.recipes import DATA, RECIPES

FROZEN = ("d2o-f", "d2o-f-modulation", "d2o-f-biases")


def decide(comparisons: list[bool]) -> str:
    """Return the verdict of comparisons that should all come out alike: one of every seed and feature space."""
    if not comparisons:
        return "not measured yet"
    return "holds here" if all(comparisons) else "not decided" if any(comparisons) else "**fails here**"


def pairs(results: Results, one: str, other: str, images: int) -> list[bool]:
    """Return whether a row's KID is below another's, for every space and seed that both have."""
    found = ((results.values(name, space, images) for name in (one, other)) for space in SPACES)
    return [a < b for first, second in found for a, b in zip(first, second, strict=False)]


def best_of_teacher(results: Results, space: str) -> tuple[float, int]:
    """Return the teacher's lowest KID of several steps, and their number."""
    found = ((results.mean(f"teacher-{steps}", space, 0), steps) for steps in TEACHER_STEPS)
    return min((kid, steps) for kid, steps in found if kid is not None)


def shares() -> list[str]:
    """Return lines of Markdown: what each freezing leaves to be trained."""
    recipe, data = RECIPES[TRANSFORMER.pretrain], DATA["cifar10-small"]
    assert recipe.backbone is not None
    lines = ["| row | what moves | frozen |", "|---|---|---|"]
    for name, moves in zip(
        ("d2o", *FROZEN),
        ("everything", "queries, keys, values; biases", "adaptive norms; biases", "biases alone"),
        strict=True,
    ):
        denoiser = new_denoiser(recipe.backbone, data.image_shape, data.num_classes, family=recipe.family)
        freeze(denoiser, RECIPES[f"cifar10-small-dit-{name}"].frozen)
        share = count_frozen(denoiser)
        lines.append(f"| {Results.word(name)} | {moves} | {share.frozen / share.total:.1%} of {share.total:,} |")
    return lines


def section(results: Results, out: Path, remarks: list[str]) -> list[str]:
    """Return the section as lines of Markdown, and draw its figures beside the page."""
    stem = f"{out.stem}-transformer"
    draw_curves(results, out.parent / "images" / f"{stem}-curves.png")
    draw_gallery(results, out.parent / "images" / f"{stem}-images.png")
    first, last = results.marks[0], results.marks[-1]
    best = {space: best_of_teacher(results, space) for space in SPACES}
    below = [kid < best[space][0] for space in SPACES for kid in results.values("d2o", space, last)]
    rows = [(f"D2O's one call is nearer to the data than its teacher's best, at {last:,} images", decide(below))]
    for name in FROZEN:
        for mark in (first, last):
            sentence = f"{Results.word(name)} beats D2O at {mark:,} images"
            rows.append((sentence, decide(pairs(results, name, "d2o", mark))))
    told = ", ".join(f"{show(kid)} ({space}, {2 * steps - 1} calls)" for space, (kid, steps) in best.items())
    return [
        "",
        "## A transformer, trained by flow matching",
        "",
        "The paper leaves open whether its method holds for transformers. In small: a DiT of 1.9 million parameters at "
        f"16x16, pre-trained by flow matching, then D2O and three freezings at equal images, two seeds. The teacher's "
        f"best KID is {told}.",
        "",
        "| question | in both spaces and all seeds |",
        "|---|---|",
        *(f"| {sentence} | {verdict} |" for sentence, verdict in rows),
        "",
        *(f"- {remark}" for remark in remarks),
        "",
        *shares(),
        "",
        f"![KID and recall against images seen](images/{stem}-curves.png)",
        "",
        f"![Images of every row from the same seeds](images/{stem}-images.png)",
        "",
        "The rows are `python benchmarks/cifar10_study.py --study cifar10-16-dit`'s; what they mean stands above.",
        "",
        *(line for space, words in SPACES.items() for line in (f"### By {words}", "", *table(results, space), "")),
    ]
