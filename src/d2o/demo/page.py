"""The demo's report: one HTML file that needs nothing else."""

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np

from d2o.data.files import grid
from d2o.files import atomic
from d2o.metrics.evaluation import Evaluation
from d2o.metrics.report import report

COLUMNS = 10
ORANGE, BLUE, GREY = "#D55E00", "#0072B2", "#666666"  # of Okabe and Ito's colour-blind-safe set


class Picture(NamedTuple):
    """Images uint8 [N,H,W,C] to be shown as a grid."""

    title: str
    text: str
    images: np.ndarray


def write_page(
    path: Path,
    pictures: Sequence[Picture],
    summary: dict[str, Any],
    evaluations: Sequence[Evaluation],
    curves: dict[str, list[dict[str, Any]]],
) -> None:
    """Write the report as one file without outside references."""
    kid, rates = summary["kid"], summary["images_per_second"]
    cards = [
        (
            f"{summary['speed_ratio']:.0f}x",
            f"as fast: {rates['student']:,.0f} v {rates['teacher']:,.0f} images a second",
        ),
        (
            f"{kid['student']:.3f}",
            f"KID in one call; teacher in 35 calls {kid['teacher']:.3f}, in one {kid['untuned']:.3f}",
        ),
        (f"{summary['class_accuracy']['student']:.1%}", "of its images show the digit that was asked for"),
        (f"{1 - summary['frozen_share']:.1%}", f"of {summary['parameters']:,} parameters moved"),
    ]
    page = Template(resources.files("d2o.demo").joinpath("page.html").read_text("utf-8"))
    html = page.substitute(
        calls=35,
        data="1,797 real handwritten ones",
        frozen=f"{summary['frozen_share']:.0%}",
        cards="".join(f'<div class="card"><b>{big}</b><small>{escape(text)}</small></div>' for big, text in cards),
        pictures="".join(figure(picture, last=picture is pictures[-1]) for picture in pictures),
        table=escape(report(evaluations)),
        accuracy_student=f"{summary['class_accuracy']['student']:.1%}",
        accuracy_teacher=f"{summary['class_accuracy']['teacher']:.1%}",
        share_min=f"{summary['class_share_min']:.1%}",
        curves=learning_curves(curves, kid["floor"]),
        moved=f"{summary['moved_parameters']:,}",
        parameters=f"{summary['parameters']:,}",
        seed=summary["seed"],
        pretrain=f"{summary['seconds']['pretrain']:.0f}",
        finetune=f"{summary['seconds']['finetune']:.0f}",
        images=f"{summary['images']:,}",
    )
    with atomic(path) as temporary:
        temporary.write_text(html)


def figure(picture: Picture, last: bool) -> str:
    """Return a grid with its caption as HTML."""
    style = ' class="student"' if last else ""
    source = png(grid(picture.images, COLUMNS))
    caption = f"<b>{escape(picture.title)}</b><br><small>{escape(picture.text)}</small>"
    return (
        f'<figure{style}><img alt="{escape(picture.title)}" src="{source}"><figcaption>{caption}</figcaption></figure>'
    )


def png(pixels: np.ndarray) -> str:
    """Return uint8 [H,W,C] as a data address."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return address(buffer, "png")


def address(buffer: io.BytesIO, kind: str) -> str:
    """Return the bytes of a picture as a data address."""
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def learning_curves(logs: dict[str, list[dict[str, Any]]], floor: float | None) -> str:
    """Draw losses and KID against images seen, and return the picture as a data address."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10, 3.2), layout="constrained")
    losses, game, quality = drawing.subplots(1, 3)
    curve(losses, logs["teacher"], "student", BLUE, "denoising loss")
    losses.set(title="Pre-training", ylabel="weighted squared error", ylim=(0, None))
    curve(game, logs["student"], "student", ORANGE, "student")
    curve(game, logs["student"], "discriminator", GREY, "discriminator")
    game.set(title="Fine-tuning", ylabel="GAN loss")
    game.legend(frameon=False)
    for name, color in (("teacher", BLUE), ("student", ORANGE)):
        points = [(row["images"] / 1000, row["evaluation"]["kid"]) for row in logs[name] if "evaluation" in row]
        calls = {"teacher": "teacher, 35 calls", "student": "student, 1 call"}[name]
        quality.plot(*zip(*points, strict=True), "o-", color=color, label=calls)
    if floor is not None:
        quality.axhline(max(floor, 0), color=GREY, linestyle=":", label="real against real")
    quality.set(title="Quality", ylabel="KID (lite2 features)")
    quality.legend(frameon=False)
    for axes in (losses, game, quality):
        axes.set_xlabel("thousand images seen")
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=160)
    return address(buffer, "png")


def curve(axes: Any, log: list[dict[str, Any]], name: str, color: str, label: str) -> None:
    """Plot one loss of a log against the images seen."""
    points = [(row["images"] / 1000, row["loss"][name]) for row in log if name in row.get("loss", {})]
    axes.plot(*zip(*points, strict=True), color=color, label=label, linewidth=1.2)
