"""Which frequencies appear at which noise level, on the way of the teacher and of the student: the analysis."""

import base64
from html import escape
from typing import Any

import gradio as gr

from d2o.analysis.figures import of_spectrum
from d2o.analysis.page import image
from d2o.analysis.spectrum import findings
from d2o.analysis.spectrum import spectrum as study
from d2o.app.choice import Choice, told
from d2o.app.generation import check_size
from d2o.app.inputs import whole
from d2o.app.models import pair
from d2o.diffusion.denoiser import Denoiser

SEEDS, STEPS = (2, 64), (4, 40)


def build(choice: Choice) -> None:
    """Add the analysis of spectra; it runs when it is asked to, because it makes many calls."""

    def spectrum(model: str, teacher: str, count: Any, steps: Any) -> str:
        """Return the spectra of the teacher's changes and the student's, as figures and sentences in HTML."""
        student, denoiser = choice.models.get(model), choice.models.get(teacher)
        pair(student, denoiser, model, teacher)
        count, steps = whole(count, "Seeds", *SEEDS), whole(steps, "Steps", *STEPS)
        check_size(denoiser, count)
        return figures(denoiser, None if student is denoiser else student, count, steps)

    with gr.Row(elem_classes="controls"):
        count = gr.Slider(*SEEDS, 32, step=1, label="Seeds", buttons=[], elem_id="spectrum-seeds")
        steps = gr.Slider(*STEPS, 18, step=1, label="Teacher's steps", buttons=[], elem_id="spectrum-steps")
        analyze = gr.Button("Analyze", variant="primary", min_width=120, elem_id="analyze")
    shown = gr.HTML(elem_id="spectrum")
    inputs = [choice.model, choice.teacher, count, steps]
    analyze.click(told(spectrum), inputs, shown, api_name="spectrum")


def figures(teacher: Denoiser, student: Denoiser | None, count: int, steps: int) -> str:
    """Return the study of spectra as HTML: what it found in sentences, and its figures."""
    found = study(teacher, student=student, seeds=range(count), steps=steps)
    pictures = "".join(
        f'<figure class="card"><img class="smooth" alt="{escape(one.caption)}" '
        f'src="data:image/png;base64,{base64.b64encode(image(one.figure, "png")).decode()}">'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
        for one in of_spectrum(found)
    )
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(found).conclusion)
    return f'<ul class="sentences">{sentences}</ul><div class="figures">{pictures}</div>'
