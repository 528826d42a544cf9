"""A folder node_modules with what the data set of emoji is made of, in small: plain discs in place of pictures."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from d2o.data.emoji import NAMES, STYLES

CONCEPTS = 40
ROWS, COLUMNS = np.mgrid[:64, :64] - 31.5
DISC = (ROWS**2 + COLUMNS**2 < 24**2)[..., None]
SVG = '<svg viewBox="0 0 32 32" xmlns="http://www.w3.org/2000/svg"><circle cx="16" cy="16" r="12" fill="{}"/></svg>'


def describe(i: int) -> dict:
    """Return what emojibase says of a concept: each fifth has skin tones, the last are a heart and two flags."""
    code, label = f"1F4{i:02X}", f"Thing Number{i}"
    row = {"hexcode": code, "label": label, "tags": ["crêpe", "good night", "10:00", f"number{i}"], "group": i % 2}
    if i % 5 == 0:
        row["skins"] = [{"hexcode": f"{code}-1F3FB", "label": f"{label}: light skin tone"}]
    last = {
        CONCEPTS - 3: {"hexcode": "2764-FE0F", "label": "red heart", "tags": ["love"]},
        CONCEPTS - 2: {"hexcode": "1F1E8-1F1EE", "label": "flag: Côte d’Ivoire", "tags": ["CI"], "group": 9},
        CONCEPTS - 1: {"hexcode": "1F3F4", "label": "black flag", "tags": ["waving"], "group": 9},
    }
    return row | last.get(i, {})


def make_packages(place: Path) -> Path:
    """Write the packages, and return their folder."""
    rows = [describe(i) for i in range(CONCEPTS)]
    for package in (NAMES, *STYLES.values()):
        folder = place / "node_modules" / package.name
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"name": package.name, "version": package.version}))
        (folder / "LICENSE").write_text("MIT License")
    names = place / "node_modules" / NAMES.name / NAMES.used
    names.parent.mkdir()
    names.write_text(json.dumps([*rows, {"hexcode": "1F3FB", "label": "light skin tone", "group": 2}]))
    for style, package in STYLES.items():
        folder = place / "node_modules" / package.name / package.used
        folder.mkdir(parents=True)
        for i, row in enumerate(rows):
            red = 4 * i
            for one in (row, *row.get("skins", ())):
                if style == "fluent":
                    (folder / f"{one['hexcode'].lower()}.svg").write_text(SVG.format(f"rgb({red},0,200)"))
                else:
                    disc = np.where(DISC, (red, 0, 200, 255), 0).astype(np.uint8)
                    Image.fromarray(disc).save(folder / f"{one['hexcode'].lower()}.png")
    return place / "node_modules"
