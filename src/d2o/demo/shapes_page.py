"""The report of the demo of shapes: captions as the headings of columns, and how often images show what they say."""

from collections.abc import Mapping, Sequence
from typing import Any

from d2o.data.shapes import Meaning
from d2o.metrics.shapes import WORDS
from d2o.pages import data_address, encode_figure, figure, page, table

from .report import BLUE, ORANGE, Log, Row, draw_cards, draw_columns, draw_curves

SCALE = 6
"""Sides of a pixel in the pictures."""
TITLES = {"seen": "Training captions", "held_out": "Held-out captions"}


def draw_page(shown: Sequence[Meaning], rows: Sequence[Row], summary: dict[str, Any], logs: Mapping[str, Log]) -> str:
    """Return the report; the student's row is the last, `logs` are those of the runs that were trained here."""
    seen, held_out, seconds = (summary[key] for key in ("seen", "held_out", "seconds"))
    calls, rates = seen["teacher"]["calls"], summary["images_per_second"]
    frozen, parameters, moved = summary["frozen_share"], summary["parameters"], summary["moved_parameters"]
    cards = {
        f"{seen['student']['all_right']:.1%}": "of the student's images match their caption, in one call; "
        f"teacher in {calls}: {seen['teacher']['all_right']:.1%}, in one: {seen['untuned']['all_right']:.1%}",
        f"{held_out['student']['all_right']:.1%}": "of its images match for held-out captions; "
        f"teacher: {held_out['teacher']['all_right']:.1%}",
        f"{seen['student']['fit']:.3f}": f"how clean its shapes are (fit, 1 is perfect); teacher in {calls} calls: "
        f"{seen['teacher']['fit']:.3f}",
        f"{summary['speed_ratio']:.1f}x": f"as fast: {rates['student']:,.0f} vs {rates['teacher']:,.0f} images/s",
    }
    numbers = "".join(
        table(
            TITLES[split],
            ("", "calls", *(word.replace("_", " ") for word in WORDS)),
            [(name, found["calls"], *(f"{found[word]:.3f}" for word in WORDS)) for name, found in generators.items()],
        )
        for split in ("seen", "held_out")
        for generators in [name_rows(summary[split])]
    )
    curves = data_address(encode_figure(draw_quality(logs, summary)))
    pretraining = f"Pre-training took {seconds['pretrain']:.0f} s" if "teacher" in logs else "The teacher was given"
    return page(
        "d2o: text to image in one call",
        f"""<h1>Text to image in one call</h1>
<p>A small diffusion model learned to draw coloured shapes of 16x16 pixels from their captions. Then a GAN loss alone,
with {frozen:.0%} of its weights frozen, turned it into a generator that needs one network call per image (D2O-F,
arXiv&nbsp;2506.09376).</p>
{draw_cards(cards)}
<h2>Same captions, same seeds</h2>
<p class="soft">Each column is one caption, each of its images one seed, the same in all three rows. Captions with a
<span class="mark">frame</span> are held out of training, though each of their words occurs in it.</p>
{draw_columns({meaning.caption(): meaning.held_out for meaning in shown}, rows, SCALE)}
<h2>Numbers</h2>
<p>A program, not a person or a network, reads every image: it finds the nearest of all shapes that a caption can mean,
and compares its size, colour, shape and place with the caption. <b>All right</b> is the share of images without any
mistake; <b>fit</b> is the mean overlap of an image's shape with that nearest one (intersection over union). Real images
are always read correctly, with a fit of 1.</p>
{numbers}
<h2>Learning curves</h2>
{figure(curves, "Losses, and how often the images are right")}
<h2>What you are looking at</h2>
<p>The teacher's network attends to the words of a caption while it removes noise, in {calls} calls. The student goes
from noise to image in one. It was trained against a discriminator that reads the caption, too: an image must look real
<i>and</i> match its caption. {moved:,} of {parameters:,} parameters changed; the word encoder, the projections, the
MLPs and the modulation keep their pre-trained weights.</p>
<p class="soft">Seed {summary["seed"]}. {pretraining}, fine-tuning took {seconds["finetune"]:.0f} s.
N = {summary["images"]:,} images for each generator: 5 for each meaning of a caption, 144 seen and 36 held out.</p>""",
    )


def name_rows(scores: Mapping[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    names = {"teacher": "teacher", "untuned": "teacher, not fine-tuned", "student": "D2O-F student"}
    return {title: scores[name] for name, title in names.items()}


def draw_quality(logs: Mapping[str, Log], summary: dict[str, Any]) -> Any:
    """Return losses, and the share of right images against calls, as a figure of matplotlib."""
    drawing, right = draw_curves(logs)
    for split, line in (("seen", "-"), ("held_out", ":")):
        label, student = split.replace("_", " "), summary[split]["student"]
        rows = summary["teacher_by_calls"][split]
        points = [(row["calls"], row["all_right"]) for row in rows]
        right.plot(*zip(*points, strict=True), f"o{line}", color=BLUE, label=f"teacher, {label}")
        marker = "*" if split == "seen" else "d"
        right.plot(1, student["all_right"], marker, color=ORANGE, markersize=11, label=f"student, {label}")
    right.set(title="Images that are all right", xlabel="network calls an image", ylabel="share")
    right.set_xscale("log", base=2)
    right.set_xticks([row["calls"] for row in summary["teacher_by_calls"]["seen"]])
    right.xaxis.set_major_formatter("{x:.0f}")
    right.legend(frameon=False)
    return drawing
