"""Prompt retrieval: are the real images that a generated one is nearest to among those of what was asked for?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

NEAR = 5


def retrieval(
    sample: np.ndarray, asked: Sequence[Any], reference: np.ndarray, shown: Sequence[Any], near: int = NEAR
) -> float:
    """Return the share of images that have a real one of what was `asked` for among the `near` nearest.

    Features are [N,D] of generated images and [M,D] of real ones, of which `shown` says what each shows; they are
    compared by their direction. Chance is about `near` times the share of the real images that would do.
    """
    rows, others = (F.normalize(torch.from_numpy(side).float(), dim=1) for side in (sample, reference))
    nearest = (rows @ others.T).topk(min(near, len(others)), dim=1).indices.numpy()
    names = list(dict.fromkeys([*shown, *asked]))
    numbers = {name: number for number, name in enumerate(names)}
    found, wanted = (np.array([numbers[name] for name in side]) for side in (shown, asked))
    return float((found[nearest] == wanted[:, None]).any(1).mean())
