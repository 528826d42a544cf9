"""Which shapes count as between two places: blends of two, and no true one."""

import runpy
from pathlib import Path

import numpy as np

from d2o.data.shapes import draw, draw_mask

SCORE = Path(__file__).parents[2] / "benchmarks" / "shapes_score.py"


def test_a_blend_is_between_and_a_true_shape_is_not():
    find_between = runpy.run_path(str(SCORE))["find_between"]
    real = np.stack([draw("train", number) for number in range(40)])
    assert find_between(real) == 0
    blends = [np.maximum(draw_mask("large", "square", 6.5, 7.5), draw_mask("large", "square", 7.5, 8.5)),
              np.minimum(draw_mask("large", "circle", 7.5, 7.5), draw_mask("large", "circle", 8.5, 8.5))]  # fmt: skip
    pixels = np.stack([(200 * blend[..., None]).repeat(3, axis=2) for blend in blends]).astype(np.uint8)
    assert find_between(pixels) == 1
