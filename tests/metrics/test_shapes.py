"""Drawn shapes and their check: real images are read right, others are not, and held-out captions are never trained."""

from itertools import product

import numpy as np
import pytest

from d2o.data.datasets import open_images
from d2o.data.shapes import MEANINGS, SPLITS, WORDINGS, draw, plan
from d2o.metrics.shapes import score


@pytest.mark.parametrize("split", ["train", "test"])
def test_real_images_are_read_right(split):
    numbers = range(300)
    found = score(np.stack([draw(split, n) for n in numbers]), [plan(split, n)[0] for n in numbers])
    assert found == (1.0,) * 6


def test_each_word_is_checked_by_itself():
    numbers = range(200)
    pixels, asked = np.stack([draw("train", n) for n in numbers]), [plan("train", n)[0] for n in numbers]
    recoloured = score(pixels, [meaning._replace(colour="no colour") for meaning in asked])
    assert (recoloured.all_right, recoloured.colour) == (0.0, 0.0) and recoloured.shape == recoloured.place == 1.0
    mirrored = score(pixels[:, :, ::-1], asked)
    assert mirrored.colour == mirrored.size == 1.0 and mirrored.place < 0.8
    noise = score(np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8), asked)
    assert noise.all_right < 0.1 and noise.fit < 0.5


def test_every_word_and_every_pair_of_words_is_in_the_captions_that_are_trained():
    seen, held_out = SPLITS["train"], SPLITS["test"]
    assert not set(seen) & set(held_out) and sorted(seen + held_out) == sorted(MEANINGS)
    assert len(held_out) == len(MEANINGS) // 5
    for place in range(4):
        assert {meaning[place] for meaning in seen} == {meaning[place] for meaning in MEANINGS}


def test_images_have_captions_and_splits():
    images = open_images("shapes")
    texts = [images.captions(n) for n in range(50)]
    assert all(text == (plan("train", n)[1],) for n, text in enumerate(texts))
    assert np.array_equal(images.pixels([7])[0], draw("train", 7))
    captions = {meaning.caption(w) for meaning, w in product(SPLITS["test"], range(len(WORDINGS)))}
    test = open_images("shapes", split="test")
    assert {test.captions(n)[0] for n in range(200)} <= captions
