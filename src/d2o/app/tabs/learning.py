"""The learning curves and evaluations of run directories, live while they train."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from d2o.app.choice import told
from d2o.app.pictures import figure, png
from d2o.app.runs import Log, changed, is_number, read, runs_in

SECONDS = 2
"""Between two looks at the log."""
COLUMNS = {
    "images": ("images seen", "{:,.0f}"),
    "kid": ("KID", "{:.3f}"),
    "frechet": ("Frechet distance", "{:.1f}"),
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "pixel_deviation_within": ("deviation within a class", "{:.3f}"),
    "images_compared": ("N", "{:,.0f}"),
    "features": ("features", "{}"),
}
ORANGE, GREY = "#D55E00", "#888888"  # of Okabe and Ito's colour-blind-safe set


def build(folder: Path) -> None:
    """Add the curves of the runs in a folder."""
    import pandas

    def learning(name: str) -> tuple[Any, Any, str, str]:
        """Return a run's losses and KID against thousand images seen, and its state and evaluations as HTML."""
        log = read(folder, name)
        losses = pandas.DataFrame(log.losses, columns=["images", "loss", "network"])
        quality = [
            {"images": row["images"] / 1000, "KID": row["kid"]} for row in log.evaluations if is_number(row.get("kid"))
        ]
        return losses, pandas.DataFrame(quality, columns=["images", "KID"]), state(log), details(log)

    def look(name: Any, seen: Any) -> list[Any]:
        """Read the log again if it has grown; where its run is not there (any more), take the newest that is."""
        names = runs_in(folder)
        name = name if name in names else next(iter(names), None)
        now = None if name is None else list(changed(folder, name))
        if name is None or now == seen:
            return [gr.skip()] * 6
        return [*learning(name), now, gr.Dropdown(choices=names, value=name)]

    def listed(name: Any) -> gr.Dropdown:
        """Return the runs that there are now; the one that is shown stays."""
        names = runs_in(folder)
        return gr.Dropdown(choices=names, value=name if name in names else names[0] if names else None)

    names = runs_in(folder)
    first = names[0] if names else None
    with gr.Row(elem_classes="controls"):
        name = gr.Dropdown(names, value=first, label="Run", scale=2, elem_id="run", allow_custom_value=True)
        progress = gr.HTML(elem_id="progress", scale=3)
    with gr.Row():
        losses = gr.LinePlot(
            x="images",
            y="loss",
            color="network",
            color_map={"student": ORANGE, "discriminator": GREY},
            x_title="thousand images seen",
            label="Losses",
            elem_id="losses",
        )
        quality = gr.ScatterPlot(  # points: there are few, at first one alone, which is no line yet
            x="images",
            y="KID",
            x_title="thousand images seen",
            label="KID",
            elem_id="kid",
        )
    rest = gr.HTML(elem_id="evaluations")
    seen, timer = gr.State(None), gr.Timer(SECONDS)
    shown = [losses, quality, progress, rest]
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    name.change(told(learning), name, shown, api_name="learning", **quiet)
    timer.tick(told(look), [name, seen], [*shown, seen, name], api_visibility="private", **quiet)
    name.focus(told(listed), name, name, api_visibility="private", **quiet)


def state(log: Log) -> str:
    """Return where the run stands as HTML."""
    share = log.images / log.duration if log.duration else None
    of = f" of {log.duration:,.0f}" if log.duration else ""
    bar = f'<progress value="{min(share, 1):.4f}"></progress>' if share is not None else ""
    live = '<i class="live">live</i>' if log.growing else ""
    return f"<div>{bar}<b>{log.images:,.0f}{of} images</b> in {log.seconds:,.0f} s {live}</div>"


def details(log: Log) -> str:
    """Return evaluations as a table and the newest samples as a picture, as HTML."""
    head = "".join(f"<th>{title}</th>" for title, _ in COLUMNS.values())
    body = "".join(
        "<tr>" + "".join(f"<td>{cell(row.get(key), form)}</td>" for key, (_, form) in COLUMNS.items()) + "</tr>"
        for row in reversed(log.evaluations)
    )
    table = f"<table><tr>{head}</tr>{body}</table>" if log.evaluations else "<p>This run has no evaluations yet.</p>"
    return f'<div class="beside">{samples(log)}{table}</div>'


def samples(log: Log) -> str:
    """Return the newest grid of samples as HTML."""
    if log.samples is None:
        return ""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(log.samples) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
        return ""
    images = int(log.samples.stem) if log.samples.stem.isdecimal() else log.images
    caption = f"<b>Samples</b><span>after {images:,} images</span>"
    return figure(png(pixels, 720), "the newest samples", max(pixels.shape), caption, "student")


def cell(value: Any, form: str) -> str:
    """Return a number of the table."""
    fits = is_number(value) if form != "{}" else isinstance(value, str)
    return escape(form.format(value)) if fits else "-"
