"""Random orders: functions of (seed, epoch) alone, so that a stream of images has no state."""

from functools import lru_cache

import numpy as np

MOST_TABLED = 10_000_000  # images whose order is kept as a table, 8 bytes each
ROUNDS = 8


def shuffle(places: np.ndarray, count: int, seed: int, epoch: int) -> np.ndarray:
    """Return which of `count` images stand at the places of an epoch, int64 [n]."""
    tabled = count <= MOST_TABLED
    return permute(count, seed, epoch)[places] if tabled else encipher(places, count, seed, epoch)


@lru_cache(maxsize=4)
def permute(count: int, seed: int, epoch: int = 0) -> np.ndarray:
    """Return the numbers from 0 to `count` - 1 in the random order of one epoch."""
    order = np.random.Generator(np.random.Philox(key=(seed << 64) + epoch)).permutation(count)
    order.setflags(write=False)
    return order


def encipher(places: np.ndarray, count: int, seed: int, epoch: int) -> np.ndarray:
    """Return values of a random permutation of the numbers below `count`, int64 [n], without a table of it.

    A Feistel network permutes the numbers of an even number of bits; where it leads out of those below `count`, it is
    applied again until it leads back (cycle walking; Black and Rogaway, 2002).
    """
    half = np.uint64(((count - 1).bit_length() + 1) // 2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.Philox(key=(seed << 64) + epoch).random_raw(ROUNDS)
    values, outside = places.astype(np.uint64), np.ones(len(places), bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for key in keys:
            left, right = right, left ^ (mix(right ^ key) & mask)
        values[outside] = left << half | right
        outside = values >= count
    return values.astype(np.int64)


def mix(values: np.ndarray) -> np.ndarray:
    """Scramble 64-bit numbers one to one, by the last steps of SplitMix64 (Steele, Lea and Flood, 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))
