"""Draw the README's picture from the models that come with d2o: python docs/pictures.py [FOLDER]."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import d2o
from d2o.data.files import to_uint8

SEEDS, COLUMNS, SIDE, GAP, TITLE = range(20), 5, 72, 4, 34
PANELS = (
    ("diffusion model, 35 calls", "cifar10-small-teacher", 18),
    ("the same weights, 1 call", "cifar10-small-teacher", 1),
    ("D2O-F student, 1 call", "cifar10-small", 1),
)


def draw_panel(images: np.ndarray, title: str) -> Image.Image:
    """Return images uint8 [N,H,W,C], enlarged smoothly, in rows under a title."""
    rows = len(images) // COLUMNS
    panel = Image.new("RGB", (COLUMNS * (SIDE + GAP) - GAP, TITLE + rows * (SIDE + GAP) - GAP), "white")
    ImageDraw.Draw(panel).text((0, 4), title, "#1c1c1c", ImageFont.load_default(20))
    for place, pixels in enumerate(images):
        picture = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        panel.paste(picture, (place % COLUMNS * (SIDE + GAP), TITLE + place // COLUMNS * (SIDE + GAP)))
    return panel


def draw() -> Image.Image:
    """Return the panels side by side: the same seeds in each."""
    panels = []
    for title, model, steps in PANELS:
        images = torch.cat(list(d2o.generate(d2o.load(model), SEEDS, steps=steps)))
        panels.append(draw_panel(to_uint8(images), title))
    width, height = panels[0].size
    picture = Image.new("RGB", (len(panels) * (width + 24) - 24, height), "white")
    for place, panel in enumerate(panels):
        picture.paste(panel, (place * (width + 24), 0))
    return picture


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "images"
    draw().save(folder / "one-call.png", optimize=True)
