"""Draw the README's pictures from the models that come with d2o: python docs/pictures.py [FOLDER]."""

import sys
import textwrap
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


PROMPTS = (
    *("noto grinning face", "noto smiling face with sunglasses", "twemoji loudly crying face", "fluent enraged face"),
    *("noto cowboy hat face", "fluent smiling cat with heart eyes", "noto alien", "twemoji ghost"),
    *("fluent red heart", "noto blue heart", "twemoji broken heart", "noto pile of poo"),
)
EMOJI = (
    ("diffusion model, 35 calls", "emoji-teacher", 18),
    ("the same weights, 1 call", "emoji-teacher", 1),
    ("D2O-F student, 1 call", "emoji", 1),
)
LARGE, NOTE = 84, 150


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


def draw_emoji() -> Image.Image:
    """Return a row a generator and a column a prompt, the same seeds in each row."""
    picture = Image.new("RGB", (NOTE + len(PROMPTS) * (LARGE + GAP), len(EMOJI) * (LARGE + GAP) + TITLE + 14), "white")
    pen = ImageDraw.Draw(picture)
    for column, prompt in enumerate(PROMPTS):
        text = textwrap.fill(prompt, 13)
        place = (NOTE + column * (LARGE + GAP) + LARGE // 2, (TITLE + 14) // 2)
        pen.multiline_text(place, text, "#1c1c1c", ImageFont.load_default(11), anchor="mm", align="center", spacing=1)
    for row, (title, model, steps) in enumerate(EMOJI):
        top = TITLE + 14 + row * (LARGE + GAP)
        pen.multiline_text(
            (0, top + LARGE // 2), title.replace(", ", "\n"), "#1c1c1c", ImageFont.load_default(14), "lm"
        )
        images = torch.cat(
            list(d2o.generate(d2o.load(model), range(len(PROMPTS)), steps=steps, condition=list(PROMPTS)))
        )
        for column, pixels in enumerate(to_uint8(images)):
            enlarged = Image.fromarray(pixels).resize((LARGE, LARGE), Image.Resampling.BICUBIC)
            picture.paste(enlarged, (NOTE + column * (LARGE + GAP), top))
    return picture


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "images"
    draw().save(folder / "one-call.png", optimize=True)
    draw_emoji().save(folder / "emoji.png", optimize=True)
