"""Take one band of frequencies away, or leave nothing else: which bands does one-step quality need, and where?"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2o.checkpoints import load
from d2o.checkpoints.delta import weights_sha256
from d2o.diffusion.denoiser import Denoiser
from d2o.training.recipe import Recipe
from d2o.training.run import summary

from .blocks import watch
from .correlation import Interval, grouped_rank_correlation, spread, verdict
from .findings import Findings, Table, caution, measured
from .frequency import Band, filtered, octaves, rings
from .network import OUTPUT, places, replaced, sizes
from .paths import ask, device, levels, sampled
from .progression import mean
from .trials import Bench, Scores, relatives, remembered, tuned

MODES = ("remove", "keep")
IMAGE = "image"
"""The place of a filter on the finished image: how much the measure itself minds."""
DEFINITIONS = (
    "Output: one octave is taken out of the output of one block (or nothing else is left of it) while the student "
    "makes its images in one call; no training. The row 'image' filters the finished image: how much the measure "
    "minds.",
    "Such a filter acts on all that has gathered up to a block. It shows through which blocks a band is transmitted "
    "and needed, and not which block makes it.",
    "Means over blocks leave out the output block, which repeats the image, and are taken over blocks that hold the "
    "same bands: small maps have no high ones.",
    "Gradient: the gradient that reaches the student's image from the discriminator is filtered so, at every step of "
    "the fine-tuning; the network, the images and the discriminator's own training are untouched.",
    "The interval of the rank correlation is over whole blocks: bootstrap, with Student's t in Fisher's z. Blocks "
    "resemble their neighbours on the way through the network: N of them count as N (1 - c) / (1 + c) independent "
    "ones, c being the autocorrelation, at lag 1, of what each adds to the correlation.",
    "± is the standard deviation over repetitions (other seeds of the images; of the gradient's trials also of "
    "training).",
)


@dataclass(frozen=True, eq=False)
class BandsStudy:
    """KID of every (mode, place, band) and of training with every (mode, band) of the gradient, and without filters.

    `energies` are the shares of bands in the change of each block's output, in the teacher; `places`, where blocks are.
    `full`, training without filters, is None where neither gradients nor a student asked for it.
    """

    bands: list[Band]
    places: dict[str, str]
    energies: dict[tuple[str, Band], float]
    student: Scores
    outputs: dict[tuple[str, str, Band], Scores]
    full: Scores | None
    gradients: dict[tuple[str, Band], Scores]
    images: int
    notes: tuple[str, ...] = ()


def limit_gradient(student: Denoiser, band: Band, keep: bool) -> None:
    """Filter every gradient that reaches the student's images from now on."""

    def hook(_: nn.Module, __: tuple, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: filtered(gradient, band, keep))

    student.register_forward_hook(hook)


@contextmanager
def filtering(student: Denoiser, place: str, band: Band, keep: bool) -> Iterator[None]:
    """Filter the output of a block, or of the whole denoiser, within the context."""
    if place != IMAGE:
        with replaced(student.backbone, place, lambda output: filtered(output, band, keep)):
            yield
        return

    def hook(_: nn.Module, __: tuple, output: Tensor) -> Tensor:
        return filtered(output, band, keep)

    handle = student.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def spots(student: Denoiser) -> dict[str, int]:
    """Return the places where a filter can be put, with how many rings their maps have; first the image."""

    def call() -> None:
        x = torch.zeros(1, *student.image_shape, device=device(student))
        label = torch.zeros(1, dtype=torch.long, device=x.device) if student.num_classes else None
        ask(student, x, student.sigma_max, label, "student")

    maps = {IMAGE: student.image_shape[1:], **sizes(student.backbone, call)}
    return {name: int(rings(*size).max()) + 1 for name, size in maps.items()}


def bands(
    teacher: Denoiser,
    recipe: Recipe,
    bench: Bench,
    *,
    student: Denoiser | None = None,
    modes: Sequence[str] = MODES,
    gradient_modes: Sequence[str] = MODES,
    repetitions: int = 1,
    seeds: Sequence[int] = range(32),
    steps: int = 18,
    origin: dict[str, Any] | None = None,
) -> BandsStudy:
    """Filter a student's blocks, and the gradient of its fine-tuning, band by band; nothing is done twice.

    Without a `student` the one that the recipe makes without filters is taken. One list of modes may be empty.
    `seeds` and `steps` are those on which the teacher's blocks are watched.
    """
    for mode in (*modes, *gradient_modes):
        if mode not in MODES:
            raise ValueError(f"Unknown mode {mode!r}; there are {', '.join(MODES)}.")
    if not modes and not gradient_modes:
        raise ValueError(f"Nothing is filtered: name modes of outputs, of gradients, or both: {', '.join(MODES)}.")
    origin, every = origin or {}, range(repetitions)

    def trial(name: str, what: dict[str, Any], prepare: Callable | None = None) -> tuple[Scores, Path]:
        rows = [
            tuned(bench, name, recipe, teacher, origin={**origin, **what}, repetition=i, prepare=prepare) for i in every
        ]
        return Scores(name, tuple(score for score, _ in rows)), rows[0][1]

    full = None
    if student is None or gradient_modes:
        full, directory = trial("gradient-full", {"gradient": "full"})
        student = load(directory / "ema.safetensors").to(device(teacher)) if student is None else student
    settings = {**origin, **bench.settings(), "student_sha256": weights_sha256(student)}

    def quality(name: str, change: Callable[[], AbstractContextManager]) -> Scores:
        def measure(repetition: int) -> dict[str, Any]:
            with change():
                return summary(bench.judge(repetition)(student))

        files = [bench.directory / f"output-{name}-{i}.json" for i in every]
        return Scores(name, tuple(remembered(file, settings, partial(measure, i)) for i, file in enumerate(files)))

    plain = quality("unchanged", nullcontext)
    outputs = {}
    filters = [(m, place, band) for place, count in spots(student).items() for band in octaves(count) for m in modes]
    for mode, place, band in bench.counted(filters, len(filters), "outputs of blocks", "filters"):
        change = partial(filtering, student, place, band, mode == "keep")
        outputs[mode, place, band] = quality(f"{mode}-{place}-{band}", change)
    gradients = {}
    whole = octaves(int(rings(*teacher.image_shape[1:]).max()) + 1)
    limits = list(product(whole, gradient_modes))
    for band, mode in bench.counted(limits, len(limits), "the gradient", "trials"):
        limit = partial(limit_gradient, band=band, keep=mode == "keep")
        gradients[mode, band], _ = trial(f"gradient-{mode}-{band}", {"gradient": f"{mode} {band}"}, limit)
    energies = {}
    if modes:
        for block in watch(teacher, sampled(teacher, seeds, steps, counted=bench.counted), levels(teacher, steps)):
            shares = mean(mean(block.change.energies))
            energies |= {
                (block.name, band): float(share) for band, share in zip(block.change.bands, shares, strict=True)
            }
    where = places(student.backbone)
    notes = relatives(bench, recipe)
    return BandsStudy(whole, where, energies, plain, outputs, full, gradients, recipe.duration, notes)


def findings(study: BandsStudy) -> Findings:
    """Return what the study says, in words, tables and numbers."""
    sentences = []
    modes = list(dict.fromkeys(mode for mode, _, _ in study.outputs))
    for mode in modes:
        sentences += outputs_say(study, mode)
    if "remove" in modes:
        claim = "the bands needed from a block are those in which its output changes most along the teacher's way"
        sentences.append(
            f"{verdict(prediction(study), claim)} Pairs of a block and a band, from 1 cycle per image on; N counts "
            "blocks, as the bands of one depend on each other."
        )
    if modes:
        sentences.append(
            "These filters show through which blocks a band is transmitted, and so needed there; not which block makes "
            "it."
        )
    for mode in dict.fromkeys(mode for mode, _ in study.gradients):
        kids = {band: scores for (m, band), scores in study.gradients.items() if m == mode}
        worst, best = max(kids, key=lambda b: kids[b].kid), min(kids, key=lambda b: kids[b].kid)
        limited = "without one band of it" if mode == "remove" else "with nothing but one band of it"
        assert study.full is not None
        sentences.append(
            f"The gradient: after {study.images:,} images KID is {study.full.cell()} with all of it; {limited}, it is "
            f"worst for band {worst} ({kids[worst].cell()}) and best for band {best} ({kids[best].cell()})."
        )
    sentences += (*caution(len(study.student.rows)), *study.notes)
    return Findings(
        kind="bands",
        title="Bands: which frequencies does one-step quality need?",
        question="What happens to a one-step generator when one band of frequencies is taken from a block's output, or "
        "from the gradient that trains it?",
        conclusion=tuple(sentences),
        tables=tuple(made for made in (output_table(study), gradient_table(study)) if made.rows),
        numbers={
            "images": study.images,
            "rank_correlation_of_energy_with_need": prediction(study)._asdict(),
            "band_energies_of_blocks": [
                {"block": block, "band": str(band), "share": share} for (block, band), share in study.energies.items()
            ],
            "student": study.student.as_dict(),
            "outputs": [
                {"mode": mode, "block": place, "band": str(band), **scores.as_dict()}
                for (mode, place, band), scores in study.outputs.items()
            ],
            "full_gradient": study.full and study.full.as_dict(),
            "gradients": [
                {"mode": mode, "band": str(band), **scores.as_dict()}
                for (mode, band), scores in study.gradients.items()
            ],
        },
        definitions=DEFINITIONS,
    )


def filtered_blocks(study: BandsStudy, mode: str) -> dict[str, list[Band]]:
    """Return which blocks were filtered in which bands; not the output block, whose output is the image itself."""
    found: dict[str, list[Band]] = {}
    for m, place, band in study.outputs:
        if m == mode and place != IMAGE and study.places[place] != OUTPUT:
            found.setdefault(place, []).append(band)
    return found


def excess(study: BandsStudy, mode: str, where: Iterable[tuple[str, Band]]) -> str:
    """Return by how much filters change KID, mean over pairs of a block and a band, with ± over repetitions."""
    kids = [study.outputs[mode, place, band].values() for place, band in where]
    return measured(*spread(np.mean(kids, 0) - study.student.values()))


def outputs_say(study: BandsStudy, mode: str) -> list[str]:
    """Return which bands have to pass through the blocks, as sentences."""
    found = filtered_blocks(study, mode)
    if not found:
        return []
    alike: dict[tuple[Band, ...], list[str]] = {}  # bands are compared over the same blocks
    by_place: dict[str, list[tuple[str, Band]]] = {}
    for place, held in found.items():
        alike.setdefault(tuple(held), []).append(place)
        by_place.setdefault(study.places[place], []).extend((place, band) for band in held if band.low > 0)
    means = []
    for held, blocks in sorted(alike.items(), reverse=True):
        told = (f"{excess(study, mode, [(block, band) for block in blocks])} (band {band})" for band in held)
        number = f"the {len(blocks)} blocks that hold" if len(blocks) > 1 else "the one block that holds"
        means.append(f"over {number} up to band {held[-1]}, by {', '.join(told)}")
    where = ", ".join(f"{excess(study, mode, pairs)} in the {place}" for place, pairs in by_place.items() if pairs)
    verb = "Without one band of one block's output" if mode == "remove" else "With nothing but one band of it"
    return [
        f"{verb}, the KID of {study.student.cell()} changes, mean {'; '.join(means)} cycles per image; "
        f"by place, from 1 cycle per image on: {where or 'no such band'}."
    ]


def prediction(study: BandsStudy) -> Interval:
    """Return the rank correlation, over blocks and bands from 1 on, of a band's energy with the KID without it."""
    groups = []
    for place, held in filtered_blocks(study, "remove").items():
        known = [band for band in held if band.low > 0 and np.isfinite(study.energies.get((place, band), np.nan))]
        if known:
            kids = [study.outputs["remove", place, band].kid for band in known]
            groups.append(([study.energies[place, band] for band in known], kids))
    return grouped_rank_correlation(groups, in_sequence=True)


def output_table(study: BandsStudy) -> Table:
    """Return the table of filtered outputs: blocks by bands."""
    modes = list(dict.fromkeys(mode for mode, _, _ in study.outputs))
    names = list(dict.fromkeys(place for _, place, _ in study.outputs))
    rows = []
    for name in names:
        found = [study.outputs.get((mode, name, band)) for mode in modes for band in study.bands]
        rows.append((name, *(scores.cell() if scores else None for scores in found)))
    columns = ("block", *(f"{mode} {band}" for mode in modes for band in study.bands))
    return Table(f"KID in one call with a filter on one block's output ({study.student.cell()} without)", columns, rows)


def gradient_table(study: BandsStudy) -> Table:
    """Return the table of filtered gradients."""
    modes = list(dict.fromkeys(mode for mode, _ in study.gradients))
    rows = [(str(band), *(study.gradients[mode, band].cell() for mode in modes)) for band in study.bands if modes]
    columns = ("band (cycles per image)", *(f"KID, {mode} it" for mode in modes))
    whole = f" ({study.full.cell()} with all of it)" if study.full else ""
    return Table(f"KID after {study.images:,} images with a filtered gradient{whole}", columns, rows)
