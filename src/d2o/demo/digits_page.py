"""The report of the demo of digits."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from d2o.data.files import grid
from d2o.metrics.evaluation import Evaluation
from d2o.metrics.report import report
from d2o.pages import data_address, encode_figure, encode_image, figure, page

from .report import BLUE, GREY, ORANGE, Log, draw_cards, draw_curves

COLUMNS = 10


def enlarge(images: np.ndarray) -> np.ndarray:
    """Return images uint8 [N,8,8,C] eight times as large and smooth, so that digits can be read."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    smooth = F.interpolate(pixels, scale_factor=8, mode="bicubic").round().clamp(0, 255)
    return smooth.byte().permute(0, 2, 3, 1).numpy()


class Picture(NamedTuple):
    """Images uint8 [N,H,W,C] to be shown as a grid."""

    title: str
    text: str
    images: np.ndarray


def draw_page(
    pictures: Sequence[Picture], summary: dict[str, Any], evaluations: Sequence[Evaluation], logs: Mapping[str, Log]
) -> str:
    """Return the report; the student's picture is the last, `logs` are those of "teacher" and "student"."""
    kid, accuracy, rates, seconds = (summary[key] for key in ("kid", "class_accuracy", "images_per_second", "seconds"))
    frozen, parameters, moved = summary["frozen_share"], summary["parameters"], summary["moved_parameters"]
    cards = {
        f"{summary['speed_ratio']:.0f}x": f"as fast: {rates['student']:,.0f} vs {rates['teacher']:,.0f} images/s",
        f"{kid['student']:.3f}": f"KID in one call; teacher in 35: {kid['teacher']:.3f}, in one: {kid['untuned']:.3f}",
        f"{accuracy['student']:.1%}": "of its images show the requested digit",
        f"{1 - frozen:.1%}": f"of {parameters:,} parameters were trained",
    }
    figures = "".join(
        figure(
            data_address(encode_image(grid(enlarge(images), COLUMNS, gap=3))),
            title,
            text,
            kind="student" if images is pictures[-1].images else "",
        )
        for title, text, images in pictures
    )
    curves = data_address(encode_figure(draw_quality(logs, kid["floor"])))
    return page(
        "d2o: a one-step generator of digits",
        f"""<h1>One call instead of 35</h1>
<p>A small diffusion model learned to draw 8x8 digits from 1,797 real handwritten ones. Then a GAN loss alone, with
{frozen:.0%} of its weights frozen, turned it into a generator that needs one network call per image (D2O-F,
arXiv&nbsp;2506.09376).</p>
{draw_cards(cards)}
<h2>Same seeds, side by side</h2>
<p class="soft">Each column is one digit class. The teacher and the student start from the same noise in every cell.</p>
<div class="figures">{figures}</div>
<h2>Numbers</h2>
<pre>{escape(report(evaluations))}</pre>
<p>A nearest-neighbour classifier on the real digits finds the requested class in {accuracy["student"]:.1%} of the
student's images and in {accuracy["teacher"]:.1%} of the teacher's; the rarest class makes up
{summary["class_share_min"]:.1%} of the student's images (10&nbsp;% would be even).</p>
<h2>Learning curves</h2>
{figure(curves, "Learning curves of teacher and student")}
<h2>What you are looking at</h2>
<p>A <b>denoiser</b> predicts the clean image behind a noisy one. A <b>sampler</b> walks down a list of noise levels and
calls the denoiser at each: that is the teacher, with 35 calls. A <b>one-step generator</b> is the same walk with a
single interval. Without fine-tuning this shortcut gives the mean of all digits of a class, a blur. Training against
the discriminator then changes {moved:,} of {parameters:,} parameters until one call is enough; the convolutions keep
their pre-trained weights.</p>
<p class="soft">Seed {summary["seed"]}. Pre-training took {seconds["pretrain"]:.0f} s, fine-tuning
{seconds["finetune"]:.0f} s, including evaluations. N = {summary["images"]:,} images for each row. The
discriminator uses EfficientNet-lite0, the distances EfficientNet-lite2: relatives trained on the same photographs,
which flatters the student; so look at the pictures and at the classifier, too.</p>""",
    )


def draw_quality(logs: Mapping[str, Log], floor: float | None) -> Any:
    """Return losses and KID against images seen, as a figure of matplotlib."""
    drawing, quality = draw_curves(logs)
    for name, color, label in (("teacher", BLUE, "teacher, 35 calls"), ("student", ORANGE, "student, 1 call")):
        points = [(row["images"] / 1000, row["evaluation"]["kid"]) for row in logs[name] if "evaluation" in row]
        quality.plot(*zip(*points, strict=True), "o-", color=color, label=label)
    if floor is not None:
        quality.axhline(max(floor, 0), color=GREY, linestyle=":", label="real against real")
    quality.set(title="Quality", ylabel="KID (lite2 features)")
    quality.legend(frameon=False)
    return drawing
