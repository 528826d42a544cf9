"""How the CIFAR-10 study measures images: three feature spaces that have nothing in common, images held out.

lite2        EfficientNet-lite2 at 64 px: it has seen ImageNet, as the discriminator's network has, its relative
classifier   a small network that was taught the study's own labels (`feature_classifier.py`)
views        the same network, taught without labels that views of an image belong together (`feature_views.py`)
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from d2o.data.datasets import Images
from d2o.data.files import grid, to_float, to_uint8
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate
from d2o.features.embedding import embedding
from d2o.files import atomic
from d2o.metrics import statistics
from d2o.metrics.distances import distances, kid
from d2o.metrics.diversity import PixelSums, feature_distance
from d2o.metrics.statistics import Features, features_of

SPACES = ("lite2", "classifier", "views")
SHOWN, COLUMNS = 40, 10
"""Images of a grid; a generator's columns are classes."""
BATCH = 250
Embed = Callable[[np.ndarray], np.ndarray]


def generate_pixels(denoiser: Denoiser, steps: int, count: int) -> np.ndarray:
    """Return a generator's images, uint8 [N,H,W,C], always of the same seeds."""
    return to_uint8(torch.cat(list(generate(denoiser, range(count), steps=steps, batch_size=BATCH))))


def open_space(name: str) -> Embed:
    """Return one of the library's feature spaces."""
    space = embedding(name)
    return lambda pixels: space(pixels).numpy()


def embed_all(embed: Embed, pixels: np.ndarray, space: str) -> Features:
    """Return the features of uint8 images [N,H,W,C] in a space of this name, some images at a time."""
    parts = [embed(pixels[first : first + BATCH]) for first in range(0, len(pixels), BATCH)]
    return features_of(np.concatenate(parts), space)


class Examiner:
    """Holds the reference's features, which are kept in `place`; `examine` compares images with it."""

    def __init__(self, train: Images, held_out: Images, embed: Mapping[str, Embed], count: int, place: Path) -> None:
        self.count, self.embed, self.held_out = count, embed, held_out
        order = np.random.Generator(np.random.Philox(0)).permutation(len(train))[:count]
        self.real = train.pixels(order)
        self.reference, self.floor = {}, {}
        for space in embed:
            file = place / f"held-out-{space}.npz"
            if not file.exists():
                place.mkdir(parents=True, exist_ok=True)
                statistics.save(file, self.features(held_out.pixels(range(len(held_out))), space))
            self.reference[space] = statistics.load(file)
            self.floor[space] = distances(self.features(self.real, space), self.reference[space])

    def features(self, pixels: np.ndarray, space: str) -> Features:
        return embed_all(self.embed[space], pixels, space)

    def blur(self) -> np.ndarray:
        """Return real images that were halved and doubled."""
        small = F.avg_pool2d(to_float(self.real), 2)
        return to_uint8(F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False))

    def examine(
        self, facts: dict[str, Any], pixels: np.ndarray, reference: np.ndarray | None = None
    ) -> list[dict[str, Any]]:
        """Return a record a space: images compared with the held-out ones, or with a `reference`."""
        sums, records = PixelSums(), []
        sums.add(pixels)
        for space in self.embed:
            sample = self.features(pixels, space)
            assert sample.values is not None
            found = distances(sample, self.reference[space] if reference is None else self.features(reference, space))
            record = {
                **facts,
                "feature_space": space,
                "kid": found.kid,
                "frechet": found.frechet,
                "floor": self.floor[space].frechet,
                "floor_kid": self.floor[space].kid,
                "precision": found.precision,
                "recall": found.recall,
                "diversity": sums.deviation(),
                "feature_distance": feature_distance(sample.values),
                "examined": len(pixels),
                "reference_images": found.reference_images,
            }
            records.append({name: rounded(value) for name, value in record.items()})
        return records

    def memory(self, pixels: np.ndarray, seen: np.ndarray, space: str) -> dict[str, Any]:
        """Return how much nearer images are to the real ones that were seen than to as many others.

        `gap` is the KID to those held out minus that to those seen; the distances are medians to the nearest neighbour.
        """
        others = self.held_out.pixels(range(min(len(seen), len(self.held_out))))
        sample, known, unknown = (self.features(rows, space).values for rows in (pixels, seen[: len(others)], others))
        assert sample is not None and known is not None and unknown is not None
        gap = kid(sample, unknown)[0] - kid(sample, known)[0]
        near = {"nearest_seen": nearest(sample, known), "nearest_held_out": nearest(sample, unknown)}
        return {"gap": rounded(gap), **{name: rounded(value) for name, value in near.items()}}


def nearest(rows: np.ndarray, others: np.ndarray) -> float:
    """Return the median distance of rows [N,D] to the nearest of others [M,D]."""
    pairs = (torch.from_numpy(np.ascontiguousarray(side, np.float32)) for side in (rows, others))
    return float(torch.cdist(*pairs).min(1).values.median())


def rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def draw(file: Path, pixels: np.ndarray, shown: int = SHOWN, columns: int = COLUMNS) -> None:
    """Write a grid of the first images."""
    sheet = grid(pixels[:shown], columns=columns)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as temporary:
        Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(temporary)
