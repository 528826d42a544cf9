"""What the demos have in common: threads, teacher, speed, curves, and the report, an HTML file that needs no other."""

import json
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from d2o import checkpoints
from d2o.data.datasets import Images
from d2o.data.files import grid, to_uint8
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate
from d2o.files import atomic
from d2o.pages import data_address, encode_image
from d2o.training.freezing import Share

THREADS = 2
"""Networks of this size gain nothing from more."""
ORANGE, BLUE, GREY = "#D55E00", "#0072B2", "#666666"  # of Okabe and Ito's colour-blind-safe set
Log = Sequence[dict[str, Any]]
"""The lines of a run's metrics.jsonl."""


def use_few_threads() -> None:
    torch.set_num_threads(min(THREADS, torch.get_num_threads()))


def open_teacher(name: str, images: Images, captions: Sequence[str], example: str) -> Denoiser:
    """Return a model that makes such images and can be asked for all of these captions; any other is a ValueError."""
    teacher = checkpoints.load(name)
    try:
        assert teacher.reader is not None and teacher.pixel_shape == images.shape
        teacher.reader(captions)
    except (AssertionError, ValueError):
        raise ValueError(
            f"{name} cannot be asked for {images.name}: name a model that reads their captions and makes RGB images of "
            f"{images.shape[1]}x{images.shape[2]} pixels, such as {example}, or leave --from out."
        ) from None
    return teacher


def measure_rate(denoiser: Denoiser, steps: int, count: int, sampler: str = "heun") -> float:
    """Return how many images a second a generator makes, after a first batch that is not counted."""
    batches = generate(denoiser, range(count + 50), steps=steps, sampler=sampler, batch_size=50)
    next(batches)
    began = time.perf_counter()
    made = sum(len(batch) for batch in batches)
    return made / (time.perf_counter() - began)


def draw_prompts(
    denoiser: Denoiser, captions: Sequence[str], seeds: Sequence[int], steps: int, sampler: str = "heun"
) -> np.ndarray:
    """Return a generator's images of every caption, from the same seeds: uint8 [captions, seeds, H, W, C]."""
    told = [caption for caption in captions for _ in seeds]
    batches = generate(denoiser, [*seeds] * len(captions), steps=steps, condition=told, sampler=sampler)
    made = to_uint8(torch.cat(list(batches)), "The generator")
    return made.reshape(len(captions), len(seeds), *made.shape[1:])


def count_up(seconds: Mapping[str, float], rates: Mapping[str, float], share: Share) -> dict[str, Any]:
    """Return what every report says of time and speed, and of how much of the student moved."""
    return {
        "seconds": {name: round(value, 1) for name, value in {**seconds, "total": sum(seconds.values())}.items()},
        "images_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "speed_ratio": round(rates["student"] / rates["teacher"], 1),
        "frozen_share": share.frozen / share.total,
        "moved_parameters": share.total - share.frozen,
        "parameters": share.total,
    }


def write_report(out: Path, page: str, summary: Mapping[str, Any]) -> None:
    for name, text in {"report.html": page, "report.json": json.dumps(summary, indent=2) + "\n"}.items():
        with atomic(out / name) as temporary:
            temporary.write_text(text)


def draw_cards(cards: Mapping[str, str]) -> str:
    """Return numbers, each with what it says, as squares of the page."""
    squares = (
        f'<div class="card"><b>{number}</b><small>{escape(text)}</small></div>' for number, text in cards.items()
    )
    return f'<div class="cards">{"".join(squares)}</div>'


class Row(NamedTuple):
    """Images uint8 [captions, seeds, H, W, C] of one generator."""

    name: str
    calls: str
    images: np.ndarray


def draw_columns(captions: Mapping[str, bool], rows: Sequence[Row], scale: int) -> str:
    """Return a table of pictures: a column a caption, a row a generator, in every cell one image a seed.

    Captions with true are framed; the last row is the student's.
    """

    def cell(caption: str, row: Row, images: np.ndarray) -> str:
        source = data_address(encode_image(grid(images, columns=1, scale=scale)))
        return f'<td><img alt="{escape(f"{row.name}, {row.calls}: {caption}")}" src="{source}"></td>'

    def heading(caption: str, marked: bool) -> str:
        start, end = ('<span class="mark">', "</span>") if marked else ("", "")
        return f"<th>{start}{escape(caption)}{end}</th>"

    lines = [f"<tr><th></th>{''.join(heading(*row) for row in captions.items())}</tr>"]
    for row in rows:
        cells = "".join(cell(caption, row, images) for caption, images in zip(captions, row.images, strict=True))
        kind = ' class="student"' if row is rows[-1] else ""
        lines.append(f"<tr{kind}><th>{escape(row.name)}<br><small>{row.calls}</small></th>{cells}</tr>")
    return f'<div class="table"><table class="pictures">{"".join(lines)}</table></div>'


def draw_curves(logs: Mapping[str, Log]) -> tuple[Any, Any]:
    """Return a figure of matplotlib with the losses of both trainings, and its third axes, still to be filled.

    `logs` are those of "student" and, where it was trained here, of "teacher".
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10, 3.2), layout="constrained")
    *losses, gan, last = drawing.subplots(1, 2 + ("teacher" in logs))
    for axes in losses:
        plot_loss(axes, logs["teacher"], "student", BLUE, "denoising loss")
        axes.set(title="Pre-training", ylabel="weighted squared error", ylim=(0, None))
    plot_loss(gan, logs["student"], "student", ORANGE, "student")
    plot_loss(gan, logs["student"], "discriminator", GREY, "discriminator")
    gan.set(title="Fine-tuning", ylabel="GAN loss")
    gan.legend(frameon=False)
    for axes in (*losses, gan, last):
        axes.set_xlabel("thousand images seen")
        axes.spines[["top", "right"]].set_visible(False)
    return drawing, last


def plot_loss(axes: Any, log: Log, name: str, color: str, label: str) -> None:
    points = [(row["images"] / 1000, row["loss"][name]) for row in log if name in row.get("loss", {})]
    axes.plot(*zip(*points, strict=True), color=color, label=label, linewidth=1.2)
