"""How the CIFAR-10 study measures images: two unrelated feature spaces, images held out, one JSON file a result."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from feature_classifier import Embed
from PIL import Image

from d2o.data.datasets import Images
from d2o.data.files import grid, to_float, to_uint8
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate
from d2o.features.embedding import embedding
from d2o.files import atomic
from d2o.metrics.distances import distances
from d2o.metrics.diversity import PixelSums, feature_distance
from d2o.metrics.statistics import Features, features_of

SPACES = ("lite2", "classifier")
"""EfficientNet-lite2 has seen ImageNet, as the discriminator's networks have; the classifier has seen CIFAR-10 only."""
SHOWN, COLUMNS = 60, 10
"""Images of a grid; a generator's columns are classes."""
BATCH = 250


def generate_pixels(denoiser: Denoiser, steps: int, count: int) -> np.ndarray:
    """Return a generator's images, uint8 [N,H,W,C], always of the same seeds."""
    return to_uint8(torch.cat(list(generate(denoiser, range(count), steps=steps, batch_size=BATCH))))


class Examiner:
    """Holds the reference's features; `write` compares images with it and keeps what it finds."""

    def __init__(self, train: Images, held_out: Images, classifier: Embed, count: int) -> None:
        self.count = count
        lite2 = embedding("lite2")
        self.embed = {"lite2": lambda pixels: lite2(pixels).numpy(), "classifier": classifier}
        self.held_out = held_out.pixels(range(len(held_out)))
        order = np.random.Generator(np.random.Philox(0)).permutation(len(train))[:count]
        self.real = train.pixels(order)
        self.reference = {space: self.features(self.held_out, space) for space in SPACES}
        self.floor = {space: distances(self.features(self.real, space), self.reference[space]) for space in SPACES}

    def features(self, pixels: np.ndarray, space: str) -> Features:
        """Return the features of uint8 images in one of SPACES."""
        parts = [self.embed[space](pixels[first : first + BATCH]) for first in range(0, len(pixels), BATCH)]
        return features_of(np.concatenate(parts), space)

    def blur(self) -> np.ndarray:
        """Return real images that were halved and doubled."""
        small = F.avg_pool2d(to_float(self.real), 2)
        return to_uint8(F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False))

    @staticmethod
    def file(results: Path, row: str, seed: int, images: int, space: str) -> Path:
        """Return where a result stands."""
        return results / f"{row.replace(' ', '-')}-seed{seed}-{images:08d}-{space}.json"

    def write(
        self, results: Path, facts: dict[str, Any], pixels: np.ndarray, reference: np.ndarray | None = None
    ) -> None:
        """Compare images with the held-out ones, or with a `reference`, in every space; keep numbers and a grid."""
        results.mkdir(parents=True, exist_ok=True)
        where = facts["row"], facts["seed"], facts["images"]
        if reference is None:
            picture = self.file(results, *where, "lite2").name.replace("-lite2.json", ".png")
            with atomic(results / picture) as temporary:
                sheet = grid(pixels[:SHOWN], columns=COLUMNS)
                Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(temporary)
        sums = PixelSums()
        sums.add(pixels)
        for space in SPACES:
            sample = self.features(pixels, space)
            found = distances(sample, self.reference[space] if reference is None else self.features(reference, space))
            record = {
                **facts,
                "reference": facts.get("reference", "held-out real images"),
                "feature_space": space,
                "kid": found.kid,
                "frechet": found.frechet,
                "floor": self.floor[space].frechet,
                "floor_kid": self.floor[space].kid,
                "precision": found.precision,
                "recall": found.recall,
                "diversity": sums.deviation(),
                "feature_distance": None if sample.values is None else feature_distance(sample.values),
                "examined": len(pixels),
                "reference_images": found.reference_images,
            }
            with atomic(self.file(results, *where, space)) as temporary:
                temporary.write_text(json.dumps(record, indent=2) + "\n")
