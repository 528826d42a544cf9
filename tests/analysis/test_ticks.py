"""Axes have labels that can be read, and the points that stand out have names."""

import numpy as np
import pytest

from d2o.analysis.figures import drawn
from d2o.analysis.ticks import extremes_named, logarithmic, loosened, only


def labels(draw):
    """Return the labels of the vertical axis that can be seen."""
    axes = drawn(2.0, draw).axes[0]
    low, high = axes.get_ylim()
    ticks = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    return [label.get_text() for value, label in ticks if low <= value <= high]


@pytest.mark.parametrize(
    ("values", "expected"),
    [((210, 1900), ["500", "1,000"]), ((0.3, 0.4), ["0.2", "0.5"]), ((0.04, 0.6), ["0.05", "0.1", "0.2", "0.5"])],
)
def test_plain_numbers_on_a_logarithmic_axis(values, expected):
    def draw(axes):
        axes.plot((1, 2), values)
        logarithmic(axes)
        only(axes.xaxis, (1, 2), ("one", "two"))

    assert set(expected) <= set(labels(draw))


def test_many_decades_have_few_labels():
    def draw(axes):
        axes.plot((1, 2), (1e-5, 1e5))
        logarithmic(axes)

    assert 2 <= len(labels(draw)) <= 12


@pytest.mark.parametrize(("largest", "scale"), [(4.0, "symlog"), (0.4, "linear")])
def test_one_value_does_not_squeeze_the_rest(largest, scale):
    values = [0.1, -0.2, 0.1, largest]

    def draw(axes):
        axes.plot(values)
        loosened(axes, values)

    axes = drawn(2.0, draw).axes[0]
    assert axes.get_yscale() == scale
    low, middle, high = axes.transData.transform([(0, -0.2), (0, 0.1), (0, largest)])[:, 1]
    assert middle - low > 0.2 * (high - low)


def test_the_extremes_have_names():
    def draw(axes):
        extremes_named(axes, [1, 2, 3, 4], [5, 9, 5, 5.5], ["a", "b", "c", "d"])

    assert {text.get_text() for text in drawn(2.0, draw).axes[0].texts} == {"a", "b", "d"}
    assert not drawn(2.0, lambda axes: extremes_named(axes, np.array([]), [], [])).axes[0].texts
