"""From one seed's image to another's, one call a frame, as a moving picture to keep."""

from typing import Any

import gradio as gr
import numpy as np

from d2o.app.choice import Choice, Refresh, told
from d2o.app.generation import check_size, in_one_call
from d2o.app.inputs import labels_of, number, seed_of, whole
from d2o.app.pictures import figure, gif, strip
from d2o.app.walk import between

FRAMES, RATES = (2, 120), (2, 50)
SHOWN = 12
"""Frames of the strip below the moving picture."""


def build(choice: Choice) -> Refresh:
    """Add the interpolation."""

    def interpolation(model: str, label: Any, first: Any, second: Any, frames: Any, rate: Any) -> str:
        """Return the walk between two seeds there and back, as HTML with a link to the GIF."""
        denoiser = choice.models.get(model)
        first, second = seed_of(first, "From seed"), seed_of(second, "To seed")
        frames, rate = whole(frames, "Frames", *FRAMES), number(rate, "Frames a second", *RATES)
        check_size(denoiser, frames)
        noise = between(denoiser.image_shape, first, second, np.linspace(0, 1, frames).tolist())
        made = in_one_call(denoiser, noise, labels_of(denoiser, label, [first] * frames))
        source, side = gif(made.images, rate), max(made.images.shape[1:])
        caption = (
            f"<b>{frames} frames</b><span>{1000 * made.seconds:,.0f} ms, one call each</span>"
            f'<a download="seeds-{first}-{second}.gif" href="{source}">Save GIF</a>'
        )
        kept = np.unique(np.linspace(0, frames - 1, min(frames, SHOWN)).round().astype(int))
        pictures = [(made.images[i], f"frame {i + 1} of {frames}") for i in kept]
        moving = figure(source, f"from seed {first} to seed {second}", side, caption, "student")
        return f'<div class="beside">{moving}{strip([("frames", pictures)], len(pictures), side)}</div>'

    with gr.Row(elem_classes="controls"):
        first = gr.Number(8, label="From seed", precision=0, minimum=0, min_width=100, elem_id="first")
        second = gr.Number(18, label="To seed", precision=0, minimum=0, min_width=100, elem_id="second")
        frames = gr.Slider(*FRAMES, 24, step=1, label="Frames", buttons=[], elem_id="frames")
        rate = gr.Slider(*RATES, 12, step=1, label="Per second", buttons=[], elem_id="rate")
        make = gr.Button("Make GIF", variant="primary", scale=0, min_width=140, elem_id="make")
    shown = gr.HTML(elem_id="interpolation")
    inputs = [choice.model, choice.label, first, second, frames, rate]
    gr.on(
        [make.click, first.submit, second.submit, choice.label.input, frames.release, rate.release],
        told(interpolation),
        *(inputs, shown),
        api_name="interpolation",
    )
    return Refresh(interpolation, inputs, [shown])
