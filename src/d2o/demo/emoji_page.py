"""The report of the demo of emoji: names as the headings of columns, and how often images show what they say."""

from collections.abc import Mapping, Sequence
from typing import Any

from d2o.metrics.retrieval import NEAR
from d2o.pages import data_address, encode_figure, figure, page, table

from .report import BLUE, GREY, ORANGE, Log, Row, draw_cards, draw_columns, draw_curves

SCALE = 3
NAMES = {"teacher": "teacher", "untuned": "teacher, not fine-tuned", "student": "D2O-F student"}
MEASURES = ("retrieval", "kid", "precision", "recall", "diversity")


def draw_page(shown: Sequence[str], rows: Sequence[Row], summary: dict[str, Any], logs: Mapping[str, Log]) -> str:
    """Return the report; the student's row is the last, `logs` are those of its run."""
    found, kid, rates, seconds = (summary[key] for key in ("retrieval", "kid", "images_per_second", "seconds"))
    frozen, parameters, moved = summary["frozen_share"], summary["parameters"], summary["moved_parameters"]
    calls = rows[1].calls
    cards = {
        f"{summary['speed_ratio']:.0f}x": f"as fast: {rates['student']:,.0f} v {rates['teacher']:,.0f} images a second",
        f"{found['student']:.0%}": f"of its images match the prompt (retrieval); teacher in {calls}: "
        f"{found['teacher']:.0%}, in one: {found['untuned']:.0%}",
        f"{kid['student']:.2f}": f"KID in one call; teacher in {calls}: {kid['teacher']:.2f}, "
        f"in one: {kid['untuned']:.2f}",
        f"{1 - frozen:.1%}": f"of {parameters:,} parameters were trained",
    }
    numbers = table(
        "Distances to the real pictures, in lite2 features",
        ("", "calls", *(name.replace("diversity", "pixel deviation") for name in MEASURES)),
        [
            (title, calls.split()[0] if name == "teacher" else 1, *(f"{summary[key][name]:.3f}" for key in MEASURES))
            for name, title in NAMES.items()
        ],
    )
    curves = data_address(encode_figure(draw_quality(logs, found)))
    return page(
        "d2o: type a word, see a picture, in one call",
        f"""<h1>Type a word, see a picture, in one call</h1>
<p>A small diffusion model that draws 32x32 emoji from their names was fine-tuned with a GAN loss alone, {frozen:.0%} of
its weights frozen. Now it needs one network call per image (D2O-F, arXiv&nbsp;2506.09376).</p>
{draw_cards(cards)}
<h2>Same words, same seeds</h2>
<p class="soft">Each column is one emoji; teacher and student start from the same seeds. The first row is the training
picture: there is one per name, so you can see how little of an image is new.</p>
{draw_columns(dict.fromkeys(shown, False), rows, SCALE)}
<h2>Numbers</h2>
{numbers}
<p><b>Retrieval</b> is the share of images whose five nearest real pictures, of {summary["real_images"]:,}, include the
emoji in the prompt; chance is {NEAR / summary["real_images"]:.0%}.</p>
<h2>Learning curves</h2>
{figure(curves, "Fine-tuning losses, and how often the images match the prompt")}
<h2>What you are looking at</h2>
<p>The teacher removes the noise in {calls}, each of them conditioned on the prompt. The student goes from noise to
image in one. Its discriminator is conditioned on the prompt, too: an image must look real <i>and</i> match the prompt.
{moved:,} of {parameters:,} parameters changed; the convolutions stayed as diffusion training left them.</p>
<p class="soft">Seed {summary["seed"]}. Fine-tuning took {seconds["finetune"]:.0f} s. N = {summary["images"]:,} images
for each generator. The pictures are Noto Emoji (Apache-2.0). The distances use EfficientNet-lite2, a relative of lite0,
through which the discriminator looks: that flatters the student a little.</p>""",
    )


def draw_quality(logs: Mapping[str, Log], found: Mapping[str, float]) -> Any:
    """Return losses, and the retrieval of each generator as bars, as a figure of matplotlib."""
    drawing, right = draw_curves(logs)
    right.barh([NAMES[name] for name in found], list(found.values()), color=(BLUE, GREY, ORANGE))
    right.set(title="Prompt retrieval", xlim=(0, 1), xlabel="share of images")
    right.invert_yaxis()
    return drawing
