"""How well a model draws the emoji that it is asked for: those it has seen, and those that were held out.

python benchmarks/emoji_score.py MODEL --data emoji-32.zip [--steps 18] [--guidance 1] [--each 4] [--out FOLDER]

`retrieval` is the share of images among whose five nearest of all real pictures is one of the emoji asked for, in any
style; `retrieval_real` is that of the real pictures asked for, which find the same emoji in other styles. With
`--group` one group is asked for, and found among the pictures of all. Held out are `pairs` of an emoji and a style that
are each seen elsewhere, and `concepts`, emoji that are seen in no style. Features are those of lite2, which judges no
run but is a relative of lite0, which may. Those of `--space` have nothing in common with a discriminator: pixels, or
the study's classifier and views, from CIFAR-10, which see means of 2x2. The sheets show triples: the picture asked for,
the image, and the nearest of the pictures that were trained on.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from examination import draw, open_space
from feature_classifier import Embed

import d2o
from d2o.data.datasets import open_images
from d2o.data.emoji import read_pictures
from d2o.data.files import to_uint8
from d2o.diffusion.denoiser import Denoiser
from d2o.metrics.distances import distances
from d2o.metrics.retrieval import retrieval
from d2o.metrics.statistics import features_of

SPACES = ("lite2", "pixels", "classifier", "views")
KEPT = Path(__file__).parent / "spaces"
PARTS = {"seen": "train", "pairs": "val", "concepts": "test"}
BATCH, SHOWN = 128, 64


class Real:
    """All pictures of a zip of emoji: pixels uint8 [N,H,W,3], what they show, their part, and their features."""

    def __init__(self, path: str, space: str = "lite2") -> None:
        images, known = open_images(path, split="all"), read_pictures(path)
        names = images.cache.decode.source.names
        self.pictures = [known[names[number]] for number in images.order]
        self.pixels = images.pixels(range(len(images)))
        self.parts = np.array([picture.file_name.partition("/")[0] for picture in self.pictures])
        self.concepts = np.array([picture.concept for picture in self.pictures])
        self.groups = np.array([picture.group for picture in self.pictures])
        self.embed = open_features(space)
        self.features = self.look(self.pixels)

    def look(self, pixels: np.ndarray) -> np.ndarray:
        return np.concatenate([self.embed(pixels[first : first + BATCH]) for first in range(0, len(pixels), BATCH)])

    def find(self, features: np.ndarray, asked: np.ndarray) -> float:
        return retrieval(features, self.concepts[asked], self.features, self.concepts)

    def find_real(self, asked: np.ndarray) -> float:
        """Return the retrieval of the real pictures themselves, each of which then does not count."""
        rest = [np.delete(np.arange(len(self.parts)), row) for row in asked]
        rows = ((self.features[[row]], self.concepts[[row]], other) for row, other in zip(asked, rest, strict=True))
        found = [retrieval(look, name, self.features[other], self.concepts[other]) for look, name, other in rows]
        return float(np.mean(found))


def open_features(space: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return what maps uint8 images [N,H,W,3] to features [N, D]."""
    if space == "lite2":
        return open_space(space)
    if space == "pixels":
        return lambda pixels: halve(pixels).reshape(len(pixels), -1) / 255
    embed = Embed(KEPT / f"cifar10-16-{space}.safetensors")
    return lambda pixels: embed(halve(pixels).round().astype(np.uint8))


def halve(pixels: np.ndarray) -> np.ndarray:
    """Return the means [N,H/2,W/2,C] of 2x2 pixels."""
    count, height, width, channels = pixels.shape
    return pixels.reshape(count, height // 2, 2, width // 2, 2, channels).mean((2, 4), dtype=np.float32)


def score(
    model: Denoiser,
    real: Real,
    steps: int,
    guidance: float,
    most: int,
    each: int,
    out: Path | None,
    group: str | None = None,
) -> dict:
    """Return what is measured of each part, or of a group's pictures in it, with `each` images for a picture."""
    found = {}
    for part, split in PARTS.items():
        asked = np.flatnonzero((real.parts == split) & ((real.groups == group) | (group is None)))
        asked = np.sort(np.random.Generator(np.random.Philox(1)).permutation(asked)[:most])
        if not len(asked):
            continue
        told = [real.pictures[number].text[0] for number in asked] * each
        seeds = range(len(told))
        images = d2o.generate(model, seeds, steps=steps, condition=told, guidance=guidance, batch_size=BATCH)
        pixels = to_uint8(torch.cat(list(images)))
        features = real.look(pixels)
        row = {
            "images": len(told),
            "retrieval": real.find(features, np.tile(asked, each)),
            "retrieval_real": real.find_real(asked),
        }
        if part == "seen":
            near = distances(*(features_of(side, "these") for side in (features, real.features[asked])))
            row |= {"kid": near.kid, "precision": near.precision, "recall": near.recall}
        found[part] = {name: round(value, 4) for name, value in row.items()}
        if out is not None:
            known = np.flatnonzero(real.parts == "train")
            rows = (torch.from_numpy(side) for side in (features[: len(asked)], real.features[known]))
            nearest = known[torch.cdist(*rows).argmin(1).numpy()]
            triples = np.stack([real.pixels[asked], pixels[: len(asked)], real.pixels[nearest]], 1)[:SHOWN]
            draw(out / f"{part}.png", triples.reshape(-1, *pixels.shape[1:]), 3 * SHOWN, columns=24)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, a file, or a model that comes with d2o")
    parser.add_argument("--data", required=True, help="the zip that d2o emoji has written")
    parser.add_argument("--steps", type=int, default=1, help="steps of the sampler")
    parser.add_argument("--guidance", type=float, default=1.0, help="scale of classifier-free guidance")
    parser.add_argument("--images", type=int, default=500, help="at most so many of each part")
    parser.add_argument("--each", type=int, default=1, help="images for each picture, of other seeds")
    parser.add_argument("--group", help="ask for the pictures of a group alone, such as food")
    parser.add_argument("--out", type=Path, help="a folder for sheets of images")
    parser.add_argument("--space", choices=SPACES, default=SPACES[0], help="the features in which images are compared")
    options = parser.parse_args()
    facts = {name: getattr(options, name) for name in ("model", "steps", "guidance", "each", "group", "space")}
    model, real = d2o.load(options.model), Real(options.data, options.space)
    measured = (options.steps, options.guidance, options.images, options.each, options.out, options.group)
    print(json.dumps(facts | score(model, real, *measured)))
