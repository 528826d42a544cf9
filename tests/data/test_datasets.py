"""The stream of batches is a pure function of (seed, start): every image once an epoch, shared by any ranks."""

import hashlib
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d2o.data.datasets import Batch, Images, open_images
from d2o.data.decoding import Decoder
from d2o.data.files import write_images
from refusal import refused

from .making import make_parquet, make_zip, named, random_pixels


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> Images:
    """Thirteen images, each filled with its own number, labelled by number mod 3."""
    path = tmp_path_factory.mktemp("numbered") / "a.npz"
    pixels = np.arange(13, dtype=np.uint8).reshape(13, 1, 1).repeat(2, 1).repeat(2, 2)
    np.savez(path, images=pixels, labels=np.arange(13) % 3)
    return open_images(path)


def seen(batch: Batch) -> list[int]:
    """Which images of `numbered` a batch holds."""
    assert batch.x0 is not None
    return ((batch.x0[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def numbers(images: Images, count: int, batch_size: int = 1, **options: int) -> list[int]:
    """The first `count` images of a stream."""
    batches = islice(images.batches(batch_size, **options), -(-count // batch_size))
    return [number for batch in batches for number in seen(batch)][:count]


def test_a_batch(numbered):
    batch = next(numbered.batches(4))
    x0, label, index = batch
    assert x0.shape == (4, 1, 2, 2) and x0.dtype == torch.float32 and x0.min() >= -1 and x0.max() <= 1
    assert label is not None and label.dtype == torch.int64 and label.tolist() == [n % 3 for n in seen(batch)]
    assert index.dtype == torch.int64 and index.tolist() == [0, 1, 2, 3]


def test_without_labels(tmp_path):
    np.savez(tmp_path / "a.npz", images=random_pixels(3))
    assert next(open_images(tmp_path / "a.npz").batches(2)).label is None


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**62), batch_size=st.integers(1, 40), epochs=st.integers(1, 4))
def test_every_image_once_an_epoch(numbered, seed, batch_size, epochs):
    order = numbers(numbered, 13 * epochs, batch_size, seed=seed)
    for epoch in range(epochs):
        assert sorted(order[epoch * 13 : (epoch + 1) * 13]) == list(range(13))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 99),
    start=st.integers(0, 100),
    share=st.integers(1, 9),
    world=st.integers(1, 5),
)
def test_ranks_share_each_batch(numbered, seed, start, share, world):
    size = share * world
    whole = islice(numbered.batches(size, seed=seed, start=start), 4)
    ranks = [numbered.batches(size, seed=seed, start=start, rank=rank, world=world) for rank in range(world)]
    for batch in whole:
        parts = [next(rank) for rank in ranks]
        assert [number for part in parts for number in seen(part)] == seen(batch)
        assert torch.equal(torch.cat([part.index for part in parts]), batch.index)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 99), start=st.integers(0, 200), batch_size=st.integers(1, 20))
def test_resuming_anywhere_continues_the_stream(numbered, seed, start, batch_size):
    resumed = list(islice(numbered.batches(batch_size, seed=seed, start=start), 3))
    whole = numbers(numbered, start + 3 * batch_size, seed=seed)
    assert [number for batch in resumed for number in seen(batch)] == whole[start:]
    assert torch.cat([batch.index for batch in resumed]).tolist() == list(range(start, start + 3 * batch_size))


def test_epochs_and_seeds_differ(numbered):
    order = numbers(numbered, 26)
    assert order[:13] != order[13:] and order[:13] != numbers(numbered, 13, seed=1)
    assert order == numbers(numbered, 26, batch_size=5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 4, "world": 3},
        {"batch_size": 0},
        {"batch_size": 2, "rank": 2, "world": 2},
        {"batch_size": 2, "start": -1},
        {"batch_size": 2, "seed": -1},
        {"batch_size": 2, "seed": 2**64},
    ],
)
def test_impossible_batches_are_refused_at_once(numbered, wrong):
    with refused("batch"):
        numbered.batches(**wrong)


def test_subsets_and_splits(numbered):
    part = numbered.subset([12, 3, 5])
    assert part.pixels([0, 1, 2])[:, 0, 0, 0].tolist() == [12, 3, 5] and part.num_classes == 3
    assert part.labels is not None and part.labels.tolist() == [0, 0, 2]
    again = part.subset([2])
    assert len(again) == 1 and again.pixels([0])[0, 0, 0, 0] == 5
    one, rest = numbered.split(4, seed=1)
    together = [int(half.pixels([i])[0, 0, 0, 0]) for half in (one, rest) for i in range(len(half))]
    assert len(one) == 4 and sorted(together) == list(range(13))
    assert sorted(numbers(part, 3)) == [3, 5, 12]


@pytest.mark.parametrize("indices", [[], [13], [-1]])
def test_bad_subsets(numbered, indices):
    with refused("subset", "12"):
        numbered.subset(indices)


@pytest.mark.parametrize("count", [0, 13, -1])
def test_bad_splits(numbered, count):
    with refused("split", "13"):
        numbered.split(count)


@pytest.mark.parametrize("rows", [0, 1, 4, 100])
def test_the_cache_changes_nothing(tmp_path, rows):
    pixels = random_pixels(9)
    images = open_images(make_zip(tmp_path / "a.zip", named(pixels)), cache_bytes=rows * 8 * 8 * 3)
    assert len(images.cache.known) == min(rows, 9)
    for _ in range(2):
        assert np.array_equal(images.pixels([8, 0, 3, 3, 5]), pixels[[8, 0, 3, 3, 5]])


def test_cached_images_are_decoded_once_and_handed_out_as_copies(tmp_path):
    path = make_zip(tmp_path / "a.zip", named(random_pixels(2)))
    images = open_images(path)
    first = images.pixels([0, 1])
    path.unlink()  # only the cache is left
    first_again = images.pixels([0, 1])
    assert np.array_equal(first, first_again)
    first_again[:] = 0
    assert np.array_equal(images.pixels([0, 1]), first)


def test_threads_share_a_zip(tmp_path):
    pixels = random_pixels(60, 16)
    names = named(pixels, "img{:02d}.png")
    images = open_images(make_zip(tmp_path / "a.zip", names), cache_bytes=0)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: images.pixels([i % 60])[0], range(600)))
    assert all(np.array_equal(result, pixels[i % 60]) for i, result in enumerate(results))


def _right(images: Images, pixels: np.ndarray, queue) -> None:
    queue.put(all(np.array_equal(images.pixels([i % 60])[0], pixels[i % 60]) for i in range(200)))


def test_forked_processes_share_a_zip(tmp_path):
    pixels = random_pixels(60, 16)
    images = open_images(make_zip(tmp_path / "a.zip", named(pixels, "img{:02d}.png")), cache_bytes=0)
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    workers = [fork.Process(target=_right, args=(images, pixels, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    answers = [queue.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join()
    assert answers == [True] * 3


class TestFingerprint:
    @pytest.fixture(scope="class")
    def hundred(self):
        return random_pixels(100), np.arange(100) % 3

    def of(self, path, pixels, labels=None, **options):
        np.savez(path, images=pixels, **({} if labels is None else {"labels": labels}))
        return open_images(path, **options).fingerprint

    def test_container_and_name_do_not_matter(self, tmp_path, hundred):
        pixels, labels = hundred
        found = {self.of(tmp_path / name, pixels, labels) for name in ("a.npz", "elsewhere.npz")}
        for name in ("b.zip", "c"):
            found.add(open_images(write_images(tmp_path / name, [pixels], labels=labels.tolist())).fingerprint)
        stored = [{"bytes": png, "path": None} for png in named(pixels).values()]
        found.add(open_images(make_parquet(tmp_path / "d.parquet", {"image": stored, "label": labels})).fingerprint)
        found.add(open_images(tmp_path / "b.zip", cache_bytes=0).subset(range(100)).fingerprint)
        assert len(found) == 1

    def test_what_is_handed_out_matters(self, tmp_path, hundred):
        pixels, labels = hundred
        file = tmp_path / "a.npz"
        found = [self.of(file, pixels, labels), self.of(file, pixels), self.of(file, pixels[:99], labels[:99])]
        for place in (0, 99, np.s_[:]):  # the first image, the last, all of them
            other = pixels.copy()
            other[place] ^= 1
            found.append(self.of(file, other, labels))
        other = labels.copy()
        other[[3, 4]] = other[[4, 3]]
        found += [self.of(file, pixels, other), self.of(file, pixels[::-1], labels[::-1])]
        found += [self.of(file, pixels, labels, resolution=4, resize=how) for how in ("area", "bilinear")]
        found += [self.of(file, pixels, labels, channels=1), open_images(file).subset(range(1, 100)).fingerprint]
        assert len(set(found)) == len(found)

    def test_it_stays_what_it_was(self, numbered):
        """Runs and results on disk have it."""
        labels, pixels = (np.arange(13, dtype="<i8") % 3).tobytes(), bytes(np.arange(13, dtype=np.uint8).repeat(4))
        assert numbered.fingerprint == hashlib.sha256(b"(13, 1, 2, 2, False)" + labels + pixels).hexdigest()

    def test_it_looks_at_few(self, tmp_path, monkeypatch):
        images = open_images(make_zip(tmp_path / "a.zip", named(random_pixels(300), "{:03d}.png")))
        seen, decode = [], Decoder.__call__
        monkeypatch.setattr(Decoder, "__call__", lambda self, index: seen.append(index) or decode(self, index))
        assert images.fingerprint == images.fingerprint
        assert len(seen) == 64 and seen[0] == 0 and seen[-1] == 299
        assert not images.cache.known.any(), "they would take up memory here and there"


def test_opening_many_images_reads_few(tmp_path):
    """Of 5,000 images at most 2,000 are looked at, and none is decoded."""
    png = next(iter(named(random_pixels(1)).values()))
    images = open_images(make_zip(tmp_path / "a.zip", {f"{i:05d}.png": png for i in range(5000)}))
    assert len(images) == 5000 and not images.cache.known.any()


def test_the_same_number_is_the_same_image(numbered):
    first: dict[int, Tensor] = {}
    for batch, _ in zip(numbered.batches(4, seed=1), range(12), strict=False):
        for image, number in zip(batch.x0, batch.number.tolist(), strict=True):
            assert torch.equal(first.setdefault(number, image), image)
    assert set(first) == set(range(len(numbered)))
