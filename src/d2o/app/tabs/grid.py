"""Many images at once, each in one call from its own seed."""

from typing import Any

import gradio as gr

from d2o.app.choice import Choice, Refresh, told
from d2o.app.generation import check_size, in_one_call
from d2o.app.inputs import labels_of, seeds_of
from d2o.app.pictures import figure, png
from d2o.data.files import grid
from d2o.diffusion.noise import noise_for

MOST = 256


def build(choice: Choice) -> Refresh:
    """Add the grid."""

    def images(model: str, label: Any, seeds: Any) -> str:
        """Return a grid of one-step images, one a seed ("0-63" or "1,5,9"), as HTML with a link to the PNG."""
        denoiser, numbers = choice.models.get(model), seeds_of(seeds, MOST)
        check_size(denoiser, len(numbers))
        made = in_one_call(denoiser, noise_for(numbers, denoiser.image_shape), labels_of(denoiser, label, numbers))
        source = png(grid(made.images))
        each = 1000 * made.seconds / len(numbers)
        caption = (
            f"<b>{len(numbers)} images</b><span>{1000 * made.seconds:,.0f} ms: {each:.1f} ms an image, one call each"
            f'</span><a download="grid.png" href="{source}">Save PNG</a>'
        )
        return figure(source, f"{len(numbers)} images in one call each", max(made.images.shape[1:]), caption, "wide")

    with gr.Row(elem_classes="controls"):
        seeds = gr.Textbox("0-63", label="Seeds", info="such as 0-63 or 1,5,9-12", scale=5, elem_id="seeds")
        draw = gr.Button("Draw", variant="primary", scale=1, min_width=120, elem_id="draw")
    shown = gr.HTML(elem_id="grid")
    inputs = [choice.model, choice.label, seeds]
    gr.on([draw.click, seeds.submit, choice.label.input], told(images), inputs, shown, api_name="grid")
    return Refresh(images, inputs, [shown])
