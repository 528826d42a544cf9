"""How far two CPU cores get at 32x32: a teacher while it is trained, and its one-step student, measured and drawn.

python benchmarks/cifar10_32.py --data cifar10-train-32x32.zip --teacher IMAGES=FILE ... [--student FILE] [--guided 2]

A FILE is a checkpoint of the teacher's run after so many IMAGES. Each is measured in its 35 calls, the last one also
with guidance and in one call. KID, precision and recall are against 10,000 of the training images, which the teacher
has seen: in lite2, and by the study's classifier and views, which see means of 2x2 pixels. What is known already is not
measured again. Writes benchmarks/results/cifar10-32.json and the first images beside it, docs/images/cifar10-32.png
(the curve) and docs/images/cifar10-32-images.png.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emoji_score import open_features
from examination import draw as draw_grid
from examination import embed_all, rounded
from PIL import Image
from report_tables import AT_32
from study_claims import SPACES
from study_figures import label_plainly

import d2o
from d2o.data.datasets import open_images
from d2o.data.files import to_uint8
from d2o.files import atomic
from d2o.metrics.distances import distances

HERE = Path(__file__).parent
RESULTS, IMAGES = HERE / "results" / "cifar10-32.json", HERE.parent / "docs" / "images"
STEPS, BATCH, REFERENCE, SHOWN, COLUMNS = 18, 100, 10_000, 60, 20


class Spaces:
    """The three feature spaces, and the reference's features in each."""

    def __init__(self, data: str) -> None:
        images = open_images(data)
        order = np.random.Generator(np.random.Philox(0)).permutation(len(images))[:REFERENCE]
        self.embed = {space: open_features(space) for space in SPACES}
        self.real = images.pixels(order)
        self.reference = {space: embed_all(embed, self.real, space) for space, embed in self.embed.items()}

    def compare(self, pixels: np.ndarray) -> dict[str, Any]:
        """Return the distances of images to the reference in each space."""
        sides = {space: (embed_all(embed, pixels, space), self.reference[space]) for space, embed in self.embed.items()}
        found = {space: distances(*pair) for space, pair in sides.items()}
        wanted = ("kid", "kid_deviation", "precision", "recall")
        return {space: {name: rounded(getattr(one, name)) for name in wanted} for space, one in found.items()}


def measure(file: str, kind: str, count: int, guidance: float, spaces: Spaces) -> tuple[dict[str, Any], np.ndarray]:
    """Return the record of a model, and its images: always of the same seeds, one class after the other."""
    model, steps = d2o.load(file), STEPS if kind in ("calls", "guided") else 1
    scale = guidance if kind == "guided" else 1.0
    batches = d2o.generate(model, range(count), steps=steps, guidance=scale, batch_size=BATCH)
    pixels = to_uint8(torch.cat(list(batches)))
    calls = (2 * steps - 1) * (2 if kind == "guided" else 1)
    record = {"kind": kind, "examined": count, "calls": calls, "guidance": scale}
    return record | {"spaces": spaces.compare(pixels)}, pixels


def draw(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw KID against images, a panel a space: the teacher's curve, and its student beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for panel, (space, title) in zip(figure.subplots(1, len(SPACES)), SPACES.items(), strict=True):
        for kind, name in AT_32.items():
            rows = sorted(
                (row["images"], max(row["spaces"][space]["kid"], 1e-4)) for row in records if row["kind"] == kind
            )
            if rows:
                panel.plot(*zip(*rows, strict=True), marker="o", label=name)
        panel.set_title(f"KID by {title}", fontsize=10)
        panel.set_xlabel("images of the teacher's training")
        panel.set_yscale("log")
        label_plainly(panel.yaxis)
        panel.locator_params(axis="x", nbins=4)
        panel.xaxis.set_major_formatter("{x:,g}")
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=len(AT_32), fontsize=8)
    figure.savefig(path, dpi=110)


def draw_sheets(folder: Path, path: Path) -> None:
    """Put the first images of every kind below each other, twice as large; a column is a class, but for real ones."""
    files = [folder / f"{name}.png" for name in ("real", *AT_32)]
    rows = [np.asarray(Image.open(file)) for file in files if file.exists()]
    with atomic(path) as temporary:
        Image.fromarray(np.concatenate(rows).repeat(2, 0).repeat(2, 1)).save(temporary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", nargs="+", required=True, metavar="IMAGES=FILE")
    parser.add_argument("--student", metavar="FILE")
    parser.add_argument("--guided", type=float, default=2.0, help="scale of guidance")
    parser.add_argument("--images", type=int, default=1_000, help="so many images of each model")
    options = parser.parse_args()
    teachers = sorted((int(images), file) for images, _, file in (text.partition("=") for text in options.teacher))
    last, file = teachers[-1]
    tasks = [(images, "calls", teacher) for images, teacher in teachers]
    tasks += [(last, "guided", file), (last, "one", file)]
    tasks += [(last, "student", options.student)] if options.student else []
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    done = {(row["images"], row["kind"]): row for row in known if row["examined"] == options.images}
    spaces, sheets = Spaces(options.data), RESULTS.with_suffix("")
    draw_grid(sheets / "real.png", spaces.real[: options.images], SHOWN, COLUMNS)
    for images, kind, model in tasks:
        if (images, kind) not in done:
            row, pixels = measure(model, kind, options.images, options.guided, spaces)
            done[images, kind] = {"images": images, **row}
            print(json.dumps(done[images, kind]), flush=True)
            with atomic(RESULTS) as temporary:
                temporary.write_text(json.dumps(list(done.values()), indent=1) + "\n")
            draw_grid(sheets / f"{kind}.png", pixels, SHOWN, COLUMNS)
    draw(list(done.values()), IMAGES / "cifar10-32.png")
    draw_sheets(sheets, IMAGES / "cifar10-32-images.png")


if __name__ == "__main__":
    main()
