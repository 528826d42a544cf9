"""One image in one call while a slider walks through noise space; beside it the teacher, as its image forms."""

from collections.abc import Iterator
from html import escape
from statistics import median
from typing import Any

import gradio as gr

from d2o.app.choice import Choice, Refresh, told
from d2o.app.generation import in_one_call, stages
from d2o.app.inputs import labels_of, number, seed_of, whole
from d2o.app.models import pair
from d2o.app.pictures import figure, png, strip
from d2o.app.walk import along

STATIONS = 8
"""The slider passes this many seeds."""
PACE, INTERVAL = 0.04, 0.06
"""How far the walk goes by itself, and seconds between its steps."""
STEPS = (2, 40)
REPEATS = 5
"""One-step images whose median time the teacher's is compared with: a single one may be unlucky."""
STALE = "() => document.querySelector('#teacher figure')?.classList.add('stale')"


def build(choice: Choice) -> Refresh:
    """Add the walk."""
    models = choice.models

    def one_step(model: str, label: Any, seed: Any, position: Any) -> str:
        """Return the image at a position of the walk through seed, seed + 1 ..., made in one call, as HTML."""
        denoiser, seed = models.get(model), seed_of(seed)
        noise = along(denoiser.image_shape, seed, number(position, "Position", 0, STATIONS))
        made = in_one_call(denoiser, noise, labels_of(denoiser, label, [seed]))
        image = made.images[0]
        caption = f"<b>One call</b><span>{milliseconds(made.seconds)}</span><small>{escape(model)}</small>"
        return figure(png(image), "the image in one call", max(image.shape), caption, "student")

    def many_steps(
        model: str, teacher: str, label: Any, seed: Any, position: Any, steps: Any
    ) -> Iterator[tuple[str, str]]:
        """Yield the teacher's image of the same noise as it forms, and the stages of its walk, as HTML."""
        student, denoiser, seed = models.get(model), models.get(teacher), seed_of(seed)
        pair(student, denoiser, model, teacher)
        steps = whole(steps, "Steps", *STEPS)
        noise = along(denoiser.image_shape, seed, number(position, "Position", 0, STATIONS))
        label = labels_of(denoiser, label, [seed])
        held, guesses = [], []
        for stage in stages(denoiser, noise, label, steps):
            held.append((stage.x, f"sigma {stage.sigma:.3g}"))
            guesses.append((stage.guess, f"the network's guess at sigma {stage.sigma:.3g}"))
            times = ""
            if stage.sigma_next == 0:
                held.append((stage.result, "the image"))
                one = median(in_one_call(student, noise, label).seconds for _ in range(REPEATS))
                times = f"<em>{stage.seconds / one:.0f} times as long</em>"
            words = f"<b>{stage.calls} calls</b><span>{milliseconds(stage.seconds)}</span>{times}"
            image, side = png(stage.result), max(stage.result.shape)
            card = figure(image, "the teacher's image", side, f"{words}<small>{escape(teacher)}</small>", "teacher")
            rows = [("what the walk holds", held), ("what the network guesses", guesses)]
            yield card, strip(rows, steps + 1, max(stage.x.shape))

    def onward(model: str, label: Any, seed: Any, position: Any) -> tuple[int, float, str]:
        """Go a step by itself: at the slider's end it goes on from the seed there."""
        seed, position = seed_of(seed), number(position, "Position", 0, STATIONS) + PACE
        if position >= STATIONS:
            seed, position = seed + STATIONS, position - STATIONS
        return seed, round(position, 2), one_step(model, label, seed, position)

    with gr.Row(elem_classes="controls"):
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, scale=1, min_width=90, elem_id="seed")
        position = gr.Slider(
            *(0, STATIONS, 0),
            step=0.01,
            label="Walk",
            info="whole numbers are the images of seed, seed + 1 ...; between them, great circles in noise space",
            scale=7,
            buttons=[],
            elem_id="position",
        )
        play = gr.Button("▶ Play", scale=1, min_width=90, variant="primary", elem_id="play")
    with gr.Row(equal_height=True):
        student = gr.HTML(elem_id="student")
        teacher = gr.HTML(elem_id="teacher")
    trail = gr.HTML(elem_id="trail")
    steps = gr.Slider(
        *STEPS, 18, step=1, label="Teacher's steps", info="calls: 2 x steps - 1", buttons=[], elem_id="steps"
    )
    timer, playing = gr.Timer(INTERVAL, active=False), gr.State(False)

    live: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    where = [choice.model, choice.label, seed, position]
    beside = [choice.model, choice.teacher, choice.label, seed, position, steps]
    gr.on(
        [position.input, seed.change, choice.label.input],
        told(one_step),
        *(where, student),
        **live,
        trigger_mode="always_last",
        api_name="one_step",
    )
    gr.on([position.input, timer.tick], None, js=STALE, show_progress="hidden")
    gr.on(
        [position.release, seed.submit, seed.blur, choice.label.input, choice.teacher.input, steps.release],
        told(many_steps),
        *(beside, [teacher, trail]),
        show_progress="hidden",
        trigger_mode="always_last",
        api_name="many_steps",
    )
    timer.tick(told(onward), where, [seed, position, student], **live, trigger_mode="once", api_visibility="private")

    def toggle(walking: bool) -> tuple[bool, gr.Timer, gr.Button]:
        """Start or stop the walk."""
        return not walking, gr.Timer(active=not walking), gr.Button("▶ Play" if walking else "❚❚ Pause")

    def rest(walking: bool, *values: Any) -> Iterator[tuple[str, str]]:
        """Show the teacher where the walk came to rest."""
        if not walking:
            yield from many_steps(*values)

    stopped = play.click(toggle, [playing], [playing, timer, play], **live, api_visibility="private")
    stopped.then(told(rest), [playing, *beside], [teacher, trail], show_progress="hidden", api_visibility="private")

    def both(*values: Any) -> Iterator[tuple[Any, str, str]]:
        """Show both for another model; the image once, as the slider may have moved before the teacher has ended."""
        model, _, label, seed, position, _ = values
        image = one_step(model, label, seed, position)
        for card, pictures in many_steps(*values):
            yield image, card, pictures
            image = gr.skip()

    return Refresh(both, beside, [student, teacher, trail])


def milliseconds(seconds: float) -> str:
    """Return a time as people read it."""
    return (
        f"{seconds:.1f} s"
        if seconds >= 10
        else f"{1000 * seconds:,.0f} ms"
        if seconds >= 0.02
        else f"{1000 * seconds:.1f} ms"
    )
