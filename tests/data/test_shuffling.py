"""The order without a table: a permutation, the same everywhere, that looks random; few images keep theirs."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2o.data import shuffling
from d2o.data.shuffling import MOST_TABLED, encipher, mix, permute, shuffle

SEEDS = st.integers(0, 2**64 - 1)


@settings(deadline=None, max_examples=80)
@given(count=st.integers(1, 3000), seed=SEEDS, epoch=st.integers(0, 2**40))
def test_it_is_a_permutation(count, seed, epoch):
    assert sorted(encipher(np.arange(count), count, seed, epoch)) == list(range(count))


@settings(deadline=None, max_examples=40)
@given(count=st.integers(MOST_TABLED + 1, 2**50), seed=SEEDS, places=st.lists(st.integers(0, 2**50 - 1), min_size=1))
def test_places_of_billions_are_looked_up_one_by_one_or_together(count, seed, places):
    places = np.unique(np.array(places) % count)
    together = shuffle(places, count, seed, 3)
    assert len(np.unique(together)) == len(places) and together.min() >= 0 and together.max() < count
    assert together.tolist() == [int(shuffle(places[i : i + 1], count, seed, 3)[0]) for i in range(len(places))]


def test_few_images_keep_their_table(monkeypatch):
    expected = np.random.Generator(np.random.Philox(key=(7 << 64) + 2)).permutation(1000)
    assert np.array_equal(shuffle(np.arange(1000), 1000, 7, 2), expected)
    monkeypatch.setattr(shuffling, "MOST_TABLED", 999)
    assert not np.array_equal(shuffle(np.arange(1000), 1000, 7, 2), expected)


def test_another_process_has_the_same_order():
    code = (
        "import numpy as np; from d2o.data.shuffling import shuffle; "
        "print(*shuffle(np.arange(10**6, 10**6 + 50), 10**9, 5, 1))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [int(word) for word in printed.split()] == shuffle(np.arange(10**6, 10**6 + 50), 10**9, 5, 1).tolist()


@pytest.mark.parametrize("count", [20_000, 2**15 + 1])
def test_it_looks_random(count):
    """Where values and their neighbours fall, and how many stay in place, is as in uniformly random permutations."""
    epochs = np.stack([encipher(np.arange(count), count, 11, epoch) for epoch in range(20)])
    cells = np.histogram2d(
        np.tile(np.arange(count), 20), epochs.ravel(), bins=(16, 16), range=[[0, count], [0, count]]
    )[0]
    expected = 20 * count / 256
    assert ((cells - expected) ** 2 / expected).sum() < 225 + 6 * 450**0.5, "chi-squared of 15 * 15 degrees of freedom"
    steps = np.diff(epochs, axis=1)
    assert abs(np.corrcoef(epochs[:, :-1].ravel(), epochs[:, 1:].ravel())[0, 1]) < 6 / (20 * count) ** 0.5
    assert (np.abs(steps) == 1).sum() < 2 * 20 + 6 * 40**0.5 and (epochs == np.arange(count)).sum() < 20 + 6 * 20**0.5
    assert abs(np.corrcoef(epochs[0], epochs[1])[0, 1]) < 6 / count**0.5, "epochs differ"


def test_scrambling_loses_no_number_and_moves_half_of_the_bits():
    numbers = np.arange(4096, dtype=np.uint64)
    assert len(np.unique(mix(numbers))) == 4096
    flipped = mix(numbers) ^ mix(numbers ^ np.uint64(1))
    assert abs(np.unpackbits(flipped.view(np.uint8)).mean() - 0.5) < 0.01


def test_a_table_is_made_once():
    assert permute(100, 1, 2) is permute(100, 1, 2)
