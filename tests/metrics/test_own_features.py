"""Evaluations in real features, and in features of one's own."""

import numpy as np
import torch

from d2o.data.datasets import open_images
from d2o.metrics.evaluation import Evaluator, evaluate
from d2o.metrics.report import report
from refusal import refused


def test_real_digits_in_real_features() -> None:
    """The judge tells digits from blurred digits, by KID and far above the floor."""
    evaluator = Evaluator("digits", images=250)
    everything = open_images("digits")
    digits = everything.pixels(np.random.default_rng(1).choice(len(everything), 250, replace=False))
    blurred = digits.reshape(250, 4, 2, 4, 2, 1).mean((2, 4)).repeat(2, 1).repeat(2, 2).astype(np.uint8)
    real, poor = evaluator(digits, name="real"), evaluator(blurred, name="blurred")
    assert evaluator.floor is not None and real.space == "lite2@64"
    assert abs(real.distances.kid or 0) < 0.2 < 1 < (poor.distances.kid or 0)
    assert poor.distances.frechet > 2 * evaluator.floor.frechet
    assert (real.distances.recall or 0) > 0.5 > (poor.distances.recall or 0)


def test_features_of_ones_own():
    images = np.random.default_rng(0).integers(0, 256, (80, 4, 4, 1), dtype=np.uint8)
    a, b = images[:40], images[40:]

    def flat(batch: np.ndarray) -> np.ndarray:
        assert batch.dtype == np.uint8 and batch.shape[1:] == (4, 4, 1)
        return batch.reshape(len(batch), -1) / 255

    found = evaluate(a, b, images=40, features=flat)
    assert found.space == "flat" and "flat features" in report([found])
    tensors = evaluate(torch.from_numpy(a).permute(0, 3, 1, 2) / 255, b / 127.5 - 1, images=40, features=flat)
    assert tensors.distances == found.distances
    as_tensor = evaluate(a, b, images=40, features=lambda batch: torch.from_numpy(flat(batch)))
    assert as_tensor.distances == found.distances and as_tensor.space == "own"
    with refused("[40, D]", "[40]"):
        evaluate(a, b, images=40, features=lambda batch: batch[:, 0, 0, 0])
