"""Features drawn from Gaussians, whose distances are known."""

import numpy as np

from d2o.metrics.statistics import Features, features_of


def gaussian(count: int, dim: int = 6, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> Features:
    random = np.random.default_rng(seed)
    return features_of(random.standard_normal((count, dim)) * scale + shift, "test")


def values(features: Features) -> np.ndarray:
    assert features.values is not None
    return features.values
