"""Tar shards: one data set whatever the shards and their format, an index that is kept, and exact random access."""

import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2o.data import shards
from d2o.data.datasets import open_images
from d2o.fetch import CACHE_VARIABLE
from refusal import refused

from .making import encode, make_folder, make_parquet, make_tar, named, random_pixels

PIXELS = random_pixels(12)
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def sample(i: int, stem: str | None = None) -> dict[str, bytes]:
    stem = f"{i:04d}" if stem is None else stem
    return {f"{stem}.png": encode(PIXELS[i]), f"{stem}.txt": f"image {i}".encode(), f"{stem}.cls": str(i % 3).encode()}


def make_shards(folder: Path, per_shard: int = 5, kind: int = tarfile.USTAR_FORMAT) -> Path:
    for first in range(0, len(PIXELS), per_shard):
        files = [sample(i) for i in range(first, min(first + per_shard, len(PIXELS)))]
        make_tar(folder / f"{first:05d}.tar", {name: data for one in files for name, data in one.items()}, kind)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    return make_shards(tmp_path / "data")


def count_readings(monkeypatch) -> list[str]:
    """Return a list of the shards whose headers are read from now on."""
    read, make = [], shards.make_index

    def watched(file, advance):
        read.append(Path(file.name).name)
        return make(file, advance)

    monkeypatch.setattr(shards, "make_index", watched)
    return read


@pytest.mark.parametrize("per_shard", [1, 5, 12])
@pytest.mark.parametrize("kind", FORMATS)
def test_any_shards_are_the_same_data(kind, per_shard, tmp_path):
    images = open_images(make_shards(tmp_path / "data", per_shard, FORMATS[kind]))
    assert np.array_equal(images.pixels(range(12)), PIXELS)
    assert images.labels is not None and images.labels.tolist() == [i % 3 for i in range(12)]
    assert [images.captions(i) for i in range(12)] == [(f"image {i}",) for i in range(12)]


def test_they_are_found_by_a_file_and_a_pattern(folder):
    assert len(open_images(folder / "00005.tar")) == 5
    assert len(open_images(folder / "0000*.tar")) == 10
    (folder / "00005.tar").rename(folder / "shard")
    assert np.array_equal(open_images(folder / "shard").pixels(range(5)), PIXELS[5:10])


def test_splits_are_those_of_folders_or_names(tmp_path):
    for place in ("train/0.tar", "val/0.tar"):
        make_tar(tmp_path / "folders" / place, sample(0) if "train" in place else sample(1))
        make_tar(tmp_path / "names" / place.replace("/", "-"), sample(0) if "train" in place else sample(1))
    for data in ("folders", "names"):
        assert open_images(tmp_path / data).captions(0) == ("image 0",)
        assert open_images(tmp_path / data, split="val").captions(0) == ("image 1",)
        assert len(open_images(tmp_path / data, split="all")) == 2


@pytest.mark.parametrize(
    "stem", ["été", "a" * 90, "b" * 99, "c" * 300 + "/" + "d" * 200, "\N{CAT}" * 60, "./x", "/etc/x"]
)
@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_names_of_any_length_and_kind(stem, kind, tmp_path):
    files = sample(0, stem) | sample(1, stem + "2")
    images = open_images(make_tar(tmp_path / "a.tar", files, FORMATS[kind]))
    assert np.array_equal(images.pixels([0, 1]), PIXELS[:2]) and images.captions(1) == ("image 1",)


def test_files_need_not_follow_one_another(tmp_path):
    files = sorted((sample(0) | sample(1) | sample(2)).items(), key=lambda pair: (pair[0][-3:], pair[0]))
    images = open_images(make_tar(tmp_path / "a.tar", dict(files)))
    assert [images.captions(i) for i in range(3)] == [("image 0",), ("image 1",), ("image 2",)]


def test_what_is_no_part_of_an_image_is_ignored_and_counted(tmp_path):
    more = {
        "0001.seg.png": b"",
        "0001.jpg": b"",
        "x.txt": b"",
        "README": b"",
        ".DS_Store": b"",
        "__MACOSX/._0001.png": b"",
    }
    path = make_tar(tmp_path / "a.tar", sample(1) | more | {"0001.json": b"{}"})
    described = open_images(path).describe()
    assert "1 images" in described and "ignored: 1 .json files, 4 other files" in described
    assert "no classes" in open_images(path, labels="none").describe()


def test_images_and_lists_beside_shards(folder):
    make_parquet(folder / "00000.parquet", {"url": ["http://a"]})
    assert "1 .parquet files" in open_images(folder).describe()
    make_folder(folder, named(PIXELS[:1]))
    (folder / "00000.parquet").unlink()
    assert "1 images" in open_images(folder).describe() and "3 .tar files" in open_images(folder).describe()


class TestIndex:
    def test_it_is_made_once_and_kept_beside_the_shards(self, folder, monkeypatch, cache):
        read = count_readings(monkeypatch)
        first = open_images(folder)
        assert len(read) == 3 and {f.name for f in folder.iterdir() if f.suffix == ".npz"} == {
            f".{first:05d}.tar.npz" for first in (0, 5, 10)
        }
        again = open_images(folder)
        assert len(read) == 3 and again.fingerprint == first.fingerprint and again.describe() == first.describe()
        assert not cache.exists()

    def test_a_shard_that_has_changed_is_read_again(self, folder, monkeypatch):
        open_images(folder)
        read = count_readings(monkeypatch)
        make_tar(folder / "00005.tar", sample(3))
        assert len(open_images(folder)) == 8 and read == ["00005.tar"]
        make_tar(folder / "00020.tar", sample(4))
        assert len(open_images(folder)) == 9 and read == ["00005.tar", "00020.tar"]
        time = (folder / "00000.tar").stat().st_mtime_ns
        os.utime(folder / "00000.tar", ns=(time, time + 1))
        assert len(open_images(folder)) == 9 and read[2:] == ["00000.tar"]

    def test_it_is_kept_in_the_cache_where_the_folder_is_not_writable(self, folder, monkeypatch, cache):
        real = shards.atomic

        def refuse(place):
            if folder in Path(place).parents:
                raise PermissionError(13, "Permission denied", str(place))
            return real(place)

        monkeypatch.setattr(shards, "atomic", refuse)
        read = count_readings(monkeypatch)
        for _ in range(2):
            assert np.array_equal(open_images(folder).pixels([11]), PIXELS[11:])
        assert len(read) == 3 and len(list(cache.rglob("*.npz"))) == 3 and not list(folder.glob(".*"))
        monkeypatch.setenv(CACHE_VARIABLE, "/proc/nowhere")
        assert np.array_equal(open_images(folder).pixels([11]), PIXELS[11:]), "it does without"

    @pytest.mark.parametrize("damage", ["", "cut", "junk", "rows", "facts", "lies"])
    def test_a_damaged_one_is_made_again_or_refused(self, damage, folder, monkeypatch):
        open_images(folder)
        kept = folder / ".00000.tar.npz"
        with np.load(kept) as arrays:
            index = dict(arrays)
        content = {"": b"", "cut": kept.read_bytes()[:-100], "junk": b"PK\3\4" + bytes(1000)}.get(damage)
        if damage == "rows":
            index["rows"] = np.zeros((3, 3))
        elif damage == "facts":
            index["facts"] = np.array([["a"]])
        elif damage == "lies":
            index["rows"]["image"]["offset"] += 1 << 40
        buffer = io.BytesIO()
        np.savez(buffer, **index)
        kept.write_bytes(buffer.getvalue() if content is None else content)
        if damage == "lies":
            with refused("00000.tar", "truncated"):
                open_images(folder)
        else:
            read = count_readings(monkeypatch)
            assert np.array_equal(open_images(folder).pixels([0]), PIXELS[:1]) and read == ["00000.tar"]

    def test_it_takes_few_bytes_an_image(self):
        assert shards.ROW.itemsize <= 40


class TestReading:
    def test_any_start_and_any_rank_give_the_continuous_stream(self, folder):
        images = open_images(folder, cache_bytes=0)
        whole = [batch.number.tolist() for batch in islice(images.batches(4, seed=1), 9)]
        assert [number for batch in whole[:3] for number in sorted(batch)] != list(range(12))
        for start in range(9):
            batch = next(images.batches(4, seed=1, start=4 * start))
            assert batch.number.tolist() == whole[start] and np.array_equal(
                images.pixels(whole[start]), PIXELS[whole[start]]
            )
            assert batch.captions == tuple(f"image {i}" for i in whole[start])
        halves = [next(images.batches(4, seed=1, rank=rank, world=2)).number.tolist() for rank in range(2)]
        assert [*halves[0], *halves[1]] == whole[0]

    def test_threads_may_read_more_shards_than_stay_open(self, tmp_path):
        for i in range(100):
            make_tar(tmp_path / "data" / f"{i:03d}.tar", {f"{i}.png": encode(PIXELS[i % 12])})
        images = open_images(tmp_path / "data", cache_bytes=0)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: images.pixels([i])[0], [7 * i % 100 for i in range(500)]))
        assert all(np.array_equal(pixels, PIXELS[7 * i % 100 % 12]) for i, pixels in enumerate(found))
        assert len(list(Path("/proc/self/fd").iterdir())) < 200

    def test_a_shard_stays_open_while_it_is_read(self, tmp_path, monkeypatch):
        make_tar(tmp_path / "data" / "0.tar", {f"{i}.png": encode(PIXELS[i]) for i in range(3)})
        images, pread = open_images(tmp_path / "data", cache_bytes=0), os.pread
        shards: Any = images.cache.decode.source.names

        def read_late(descriptor, *place):
            shards.open.cache_clear()  # as when other threads open others
            return pread(descriptor, *place)

        monkeypatch.setattr(os, "pread", read_late)
        assert np.array_equal(images.pixels([2])[0], PIXELS[2])

    def test_order_does_not_need_a_table(self, folder, monkeypatch):
        monkeypatch.setattr("d2o.data.shuffling.MOST_TABLED", 5)
        images = open_images(folder)
        epochs = [
            [i for batch in islice(images.batches(4, start=12 * k), 3) for i in batch.number.tolist()] for k in (0, 1)
        ]
        assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2 and epochs[0] != epochs[1]


def test_what_is_wrong_is_named_by_its_shard(folder):
    make_tar(folder / "00005.tar", {"a/0005.png": b"junk", "a/0005.txt": b"a", "a/0005.cls": b"1"})
    with refused("00005.tar/a/0005.png", str(folder)):
        open_images(folder)


@pytest.mark.parametrize("number", [b"cat", b"-1", b"", b"1.5", None])
def test_class_numbers_are_whole_and_of_all(number, folder):
    files = {"0005.png": encode(PIXELS[5]), "0005.txt": b"a"}
    make_tar(folder / "00005.tar", files if number is None else files | {"0005.cls": number})
    with refused("00005.tar/0005.png", ".cls", "--labels none"):
        open_images(folder)
    assert open_images(folder, labels="none").labels is None


def test_captions_of_all_images_are_asked_for(folder):
    make_tar(folder / "00005.tar", {"0005.png": encode(PIXELS[5]), "0005.cls": b"1"})
    with refused("1 of 8 images", "00005.tar/0005.png", "--captions none"):
        open_images(folder)


def test_shards_without_images_are_refused(tmp_path):
    with refused("a.tar", "no images"):
        open_images(make_tar(tmp_path / "a.tar", {"a.txt": b"a"}))
