"""The demo's report: one HTML file that needs nothing else."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np

from d2o.images.files import atomic, grid
from d2o.metrics.evaluation import Evaluation
from d2o.metrics.report import report

COLUMNS = 10
ORANGE, BLUE, GREY = "#D55E00", "#0072B2", "#666666"  # of Okabe and Ito's colour-blind-safe set


class Picture(NamedTuple):
    """Images uint8 [N,H,W,C] to be shown as a grid."""

    title: str
    text: str
    images: np.ndarray


PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>d2o: a one-step generator of digits</title>
<style>
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fafafa; max-width: 68rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { margin: 2.4rem 0 .6rem; font-size: 1.25rem; }
p { max-width: 46rem; } small, .soft { color: #5a5a5a; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.card { background: #fff; border: 1px solid #ddd; border-radius: .6rem; padding: .8rem 1rem; }
.card b { display: block; font-size: 1.7rem; line-height: 1.2; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; background: #fff; border: 1px solid #ddd; border-radius: .6rem; padding: .8rem; }
figure.student { border: 2px solid #D55E00; }
figure img { width: 100%; image-rendering: pixelated; display: block; } figcaption { margin-top: .5rem; }
pre { background: #fff; border: 1px solid #ddd; border-radius: .6rem; padding: 1rem; overflow-x: auto; font-size: .8rem; line-height: 1.45; }
</style></head><body>
<h1>One call instead of $calls</h1>
<p>A small diffusion model learned to draw 8x8 digits from $data. Then a GAN loss alone, with $frozen of its weights
frozen, turned it into a generator that needs one network call an image (D2O-F, arXiv&nbsp;2506.09376).</p>
<div class="cards">$cards</div>
<h2>Same seeds, side by side</h2>
<p class="soft">Each column is one digit class. The teacher and the student start from the same noise in every cell.</p>
<div class="pictures">$pictures</div>
<h2>Numbers</h2>
<pre>$table</pre>
<p>A support vector machine that was trained on the real digits reads the requested class in $accuracy_student of the
student's images and in $accuracy_teacher of the teacher's; the rarest class makes up $share_min of the student's images
(10&nbsp;% would be even).</p>
<h2>Learning curves</h2>
<figure><img style="image-rendering:auto" alt="Learning curves of teacher and student" src="$curves"></figure>
<h2>What you are looking at</h2>
<p>A <b>denoiser</b> predicts the clean image behind a noisy one. A <b>sampler</b> walks down a list of noise levels and
asks the denoiser at each: that is the teacher, with $calls calls. A <b>one-step generator</b> is the same walk with a single
interval. The untrained shortcut gives the mean of all digits of a class, a blur. The discriminator's verdict then moves
$moved of $parameters parameters until one call is enough; convolutions stay as diffusion training left them.</p>
<p class="soft">Seed $seed. Pre-training took $pretrain s, fine-tuning $finetune s, with evaluations on the way. N = $images
images for each row. The discriminator looks through EfficientNet-lite0, the distances use EfficientNet-lite2: relatives
that learned from the same photographs, which flatters the student; so look at the pictures and at the classifier too.</p>
</body></html>
""")


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
        (f"{summary['speed_ratio']:.0f}x", f"as fast: {rates['student']:,.0f} v {rates['teacher']:,.0f} images a second"),
        (f"{kid['student']:.3f}", f"KID in one call; teacher in 35 calls {kid['teacher']:.3f}, in one {kid['untuned']:.3f}"),
        (f"{summary['class_accuracy']['student']:.1%}", "of its images show the digit that was asked for"),
        (f"{1 - summary['frozen_share']:.1%}", f"of {summary['parameters']:,} parameters moved"),
    ]
    html = PAGE.substitute(
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
    return f'<figure{style}><img alt="{escape(picture.title)}" src="{source}"><figcaption>{caption}</figcaption></figure>'


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
    losses.set(title="Pre-training", ylabel="weighted squared error", yscale="log")
    curve(game, logs["student"], "student", ORANGE, "student")
    curve(game, logs["student"], "discriminator", GREY, "discriminator")
    game.set(title="Fine-tuning", ylabel="GAN loss")
    game.legend(frameon=False)
    for name, color in (("teacher", BLUE), ("student", ORANGE)):
        points = [(row["images"], row["evaluation"]["kid"]) for row in logs[name] if "evaluation" in row]
        calls = {"teacher": "teacher, 35 calls", "student": "student, 1 call"}[name]
        quality.plot(*zip(*points, strict=True), "o-", color=color, label=calls)
    if floor is not None:
        quality.axhline(max(floor, 0), color=GREY, linestyle=":", label="real against real")
    quality.set(title="Quality", ylabel="KID (lite2 features)")
    quality.legend(frameon=False)
    for axes in (losses, game, quality):
        axes.set_xlabel("images seen")
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=160)
    return address(buffer, "png")


def curve(axes: Any, log: list[dict[str, Any]], name: str, color: str, label: str) -> None:
    """Plot one loss of a log against the images seen."""
    points = [(row["images"], row["loss"][name]) for row in log if name in row.get("loss", {})]
    axes.plot(*zip(*points, strict=True), color=color, label=label, linewidth=1.2)
