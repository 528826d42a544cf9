"""A feature space of one's own is a function of images, and images are arrays and tensors of any range."""

import numpy as np
import torch

from d2o.metrics.evaluation import evaluate
from d2o.metrics.report import report
from refusal import refused


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
