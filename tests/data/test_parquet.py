"""Parquet files of Hugging Face: bytes, paths that stay in their folder, splits, named labels."""

import numpy as np
import pytest

from d2o.data.datasets import open_images

from .making import encode, make_folder, make_parquet
from .test_sources import LABELS, PIXELS, refuse


def test_parquet_of_hugging_face(tmp_path):
    rows = [{"bytes": encode(image), "path": None} for image in PIXELS]
    make_parquet(tmp_path / "train-00000-of-00002.parquet", {"img": rows[:4], "fine_label": LABELS[:4]})
    make_parquet(tmp_path / "train-00001-of-00002.parquet", {"img": rows[4:], "fine_label": LABELS[4:]})
    for source in (tmp_path, tmp_path / "train-*.parquet"):
        images = open_images(source)
        assert np.array_equal(images.pixels(range(6)), PIXELS)
        assert images.labels is not None and images.labels.tolist() == LABELS
    assert len(open_images(tmp_path / "train-00000-of-00002.parquet")) == 4


def test_parquet_of_plain_bytes_and_named_labels(tmp_path):
    columns = {"thumb": [encode(image) for image in PIXELS], "coarse": LABELS, "label": [0] * 6}
    path = make_parquet(tmp_path / "a.parquet", columns)
    chosen, automatic = open_images(path, labels="coarse"), open_images(path)
    assert chosen.labels is not None and chosen.labels.tolist() == LABELS
    assert automatic.labels is not None and automatic.labels.tolist() == [0] * 6
    assert open_images(path, labels="none").labels is None


def test_parquet_with_paths(tmp_path):
    make_folder(tmp_path / "data", {"deep/a.png": encode(PIXELS[0])})
    path = make_parquet(tmp_path / "data" / "a.parquet", {"image": [{"bytes": None, "path": "deep/a.png"}]})
    assert np.array_equal(open_images(path).pixels([0]), PIXELS[:1])


@pytest.mark.parametrize("name", ["../secret.png", "{absolute}"])
def test_parquet_paths_stay_in_their_folder(tmp_path, name):
    make_folder(tmp_path, {"secret.png": encode(PIXELS[0])})
    rows = [{"bytes": None, "path": name.format(absolute=tmp_path / "secret.png")}]
    refuse(make_parquet(tmp_path / "data" / "a.parquet", {"image": rows}), "row 0 of a.parquet", "outside")


def test_parquet_link_out_of_the_folder_is_refused(tmp_path):
    make_folder(tmp_path, {"secret.png": encode(PIXELS[0]), "data/x": b""})
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    rows = [{"bytes": None, "path": "link.png"}]
    refuse(make_parquet(tmp_path / "data" / "a.parquet", {"image": rows}), "outside")


def test_parquet_errors(tmp_path):
    refuse(make_parquet(tmp_path / "a.parquet", {"image": ["text"], "label": [1]}), "no column of images", "image")
    empty = [{"bytes": None, "path": None}]
    refuse(make_parquet(tmp_path / "b.parquet", {"image": empty}), "row 0 of b.parquet", "neither bytes nor a path")
    good = make_parquet(tmp_path / "c.parquet", {"image": [encode(PIXELS[0])]})
    refuse(good, "no labels named 'kind'", "image", labels="kind")
    (tmp_path / "d.parquet").write_bytes(good.read_bytes()[:-20])
    refuse(tmp_path / "d.parquet", "cannot be read")
    refuse(tmp_path / "none-*.parquet", "no images at")
    gone = make_parquet(tmp_path / "e.parquet", {"image": [{"bytes": None, "path": "gone.png"}]})
    refuse(gone, "row 0 of e.parquet", "gone.png")
