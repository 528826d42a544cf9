"""The page: choices above, tabs below."""

from collections.abc import Callable, Iterator
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.themes as themes

from d2o.checkpoints.inspection import warn_about_one_step

from .choice import Choice, Refresh, classes, told
from .models import Models
from .tabs import grid, interpolation, learning, spectrum, walk

TITLE = "d2o: one call instead of thirty-five"
HEADING = """<h1>One call instead of thirty-five</h1><p>A diffusion model needs dozens of network calls for an image.
A GAN loss alone turned it into a generator that needs <b>one</b>: move the slider.</p>"""
TABS = {"Walk": walk, "Grid": grid, "Interpolation": interpolation}
FONTS = ("system-ui", "sans-serif")  # of the reader's machine: nothing is fetched


def theme() -> themes.Base:
    """Return the colours of the page: orange for one call, blue for many."""
    plain = themes.Default(
        primary_hue=themes.colors.orange,
        secondary_hue=themes.colors.blue,
        neutral_hue=themes.colors.stone,
        font=FONTS,
        font_mono=("ui-monospace", "monospace"),
        radius_size=themes.sizes.radius_lg,
    )
    return plain.set(
        body_background_fill="*neutral_50",
        block_title_text_color="*body_text_color",
        block_title_text_weight="600",
        block_shadow="none",
        button_primary_background_fill="#D55E00",
        button_primary_background_fill_hover="#B34E00",
        button_primary_text_color="white",
        button_primary_background_fill_dark="#D55E00",
        slider_color="#D55E00",
        slider_color_dark="#D55E00",
    )


def style() -> str:
    """Return the style sheet of the page."""
    return resources.files("d2o.app").joinpath("style.css").read_text("utf-8")


def page(models: Models, runs: Path | None = None) -> gr.Blocks:
    """Return the page for these models, and for the runs in a folder."""
    first = models.names[0]
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 600)) as blocks:
        gr.HTML(HEADING, elem_id="heading")
        with gr.Row(elem_classes="controls"):
            choose: dict[str, Any] = {"allow_custom_value": True, "min_width": 160}
            model = gr.Dropdown(models.names, value=first, label="One-step model", elem_id="model", scale=3, **choose)
            teacher = gr.Dropdown(
                models.names,
                value=models.teacher_of(first),
                label="Teacher",
                elem_id="teacher-model",
                scale=3,
                **choose,
            )
            kinds = classes(models, first)
            label = gr.Dropdown(
                kinds, value=kinds[0], label="Class", elem_id="label", scale=2, interactive=len(kinds) > 1, **choose
            )
            upload = gr.UploadButton("Open a file", scale=1, min_width=120, elem_id="upload")
        told_of = gr.HTML(**remark(models, first), elem_id="notice")
        choice = Choice(models, model, teacher, label)
        shown = gr.State(next(iter(TABS)))
        areas: dict[str, tuple[gr.Tab, Refresh]] = {}
        with gr.Tabs():
            for name, tab in TABS.items():
                with gr.Tab(name) as area:
                    areas[name] = area, tab.build(choice)
            with gr.Tab("Spectrum"):
                spectrum.build(choice)
            if runs is not None:
                with gr.Tab("Learning"):
                    learning.build(runs)

        def chosen(name: str) -> tuple[gr.Dropdown, gr.Dropdown, gr.HTML]:
            """Return the teacher and the classes that a model comes with, and a notice if it needs many steps."""
            kinds = classes(models, name)
            return (
                gr.Dropdown(choices=models.names, value=models.teacher_of(name)),
                gr.Dropdown(choices=kinds, value=kinds[0], interactive=len(kinds) > 1),
                gr.HTML(**remark(models, name)),
            )

        def uploaded(file: str) -> gr.Dropdown:
            """Read an uploaded checkpoint as data, and choose it."""
            if not file:
                raise ValueError("Choose the file of a checkpoint.")
            path = Path(file)
            try:
                name = models.upload(path, path.name)
            finally:
                path.unlink(missing_ok=True)
            return gr.Dropdown(choices=models.names, value=name)

        def found() -> gr.Dropdown:
            """Return the models that there are now, also for a page that was opened again."""
            return gr.Dropdown(choices=models.names)

        quiet: dict[str, Any] = {"show_progress": "hidden"}
        private: dict[str, Any] = {"api_visibility": "private", **quiet}
        arrived = upload.upload(told(uploaded), upload, model, api_name="upload_model", **quiet)
        events = [
            model.input(told(chosen), model, [teacher, label, told_of], api_name="choose_model", **quiet),
            arrived.success(told(chosen), model, [teacher, label, told_of], **private),
        ]
        blocks.load(found, None, model, **private)
        for name, (area, refresh) in areas.items():
            # the first tab is also selected as the page opens: that draws it, once
            chosen_tab = area.select(lambda name=name: name, None, shown, queue=False, **private)
            for event in (chosen_tab, *events):
                event.success(told(where_shown(name, refresh)), [shown, *refresh.inputs], refresh.outputs, **private)
    return blocks


def remark(models: Models, name: str) -> dict[str, Any]:
    """Return what the page says of a model under its name: that it was not made for one call, or nothing."""
    sentence = warn_about_one_step(models.get(name))
    return {"value": sentence and f"<b>{escape(name)}</b>: {escape(sentence)}", "visible": sentence is not None}


def where_shown(name: str, refresh: Refresh) -> Callable[..., Iterator[Any]]:
    """Return what refreshes a tab while it is the one in sight; the others wait until they are."""

    def refreshed(shown: str, *values: Any) -> Iterator[Any]:
        if shown == name:
            found = refresh.function(*values)
            yield from found if isinstance(found, Iterator) else [found]

    return refreshed
