"""Prompt retrieval: right where images are what was asked for, chance where they are not."""

import numpy as np
import pytest

from d2o.metrics.retrieval import retrieval

SHOWN = [name for name in "abcdefgh" for _ in range(3)]


@pytest.fixture
def reference():
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(8, 32)), 3, axis=0)
    return centres + 0.05 * rng.normal(size=centres.shape)


def test_real_images_are_what_they_show_at_any_length_of_their_features(reference):
    assert retrieval(reference, SHOWN, reference, SHOWN, near=1) == 1
    assert retrieval(reference * np.linspace(0.1, 9, 24)[:, None], SHOWN, reference, SHOWN) == 1


def test_images_of_something_else_are_not_found(reference):
    others = SHOWN[3:] + SHOWN[:3]
    assert retrieval(reference, others, reference, SHOWN, near=3) == 0
    half = [other if row % 2 else shown for row, (other, shown) in enumerate(zip(others, SHOWN, strict=True))]
    assert retrieval(reference, half, reference, SHOWN, near=3) == 0.5


def test_chance_is_the_share_of_what_is_looked_at(reference):
    noise = np.random.default_rng(1).normal(size=(4000, 32))
    found = retrieval(
        noise, [SHOWN[row % 24] for row in range(4000)], np.random.default_rng(2).normal(size=(24, 32)), [*range(24)]
    )
    assert found == 0  # none of the names is shown
    asked = [row % 24 for row in range(4000)]
    assert retrieval(noise, asked, np.random.default_rng(2).normal(size=(24, 32)), range(24)) == pytest.approx(
        5 / 24, abs=0.03
    )


def test_all_are_near_where_there_are_few(reference):
    assert retrieval(reference[:2], ["z", "a"], reference[:3], ["a", "b", "z"]) == 1
