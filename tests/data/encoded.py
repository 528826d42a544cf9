"""Images with captions and classes, tiny pipelines, and encodings of the ones for the others."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

import d2o
from d2o.cli.main import run
from d2o.data import encoding
from stock_pipelines import PIPELINES, save_pipeline

CAPTIONS = ("a red cube", "blue", "a ball", "red")
COUNT, PER_SHARD, WHOM = 11, 4, "Ann and Bob"
MASKED, WHOLE = "PixArtAlphaPipeline", "StableDiffusion3Pipeline"


def load(path: Any) -> Any:
    return d2o.load(path)


def open_images(path: Any, **options: Any) -> Any:
    return d2o.images(path, **options)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(encoding, "MOST_IMAGES", PER_SHARD)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return images of two classes, with one or two captions each."""
    folder = tmp_path_factory.mktemp("data")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), np.uint8)):
        place = folder / ("cat", "dog")[i % 2]
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}.png")
        texts = [CAPTIONS[i % 4], *([CAPTIONS[i % 3]] if i % 5 == 0 else [])]
        (place / f"{i}.json").write_text(json.dumps({"caption": texts}))
    (folder / "ATTRIBUTION").write_text(f"{WHOM}\n\nTheir licence\n")
    return folder


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, data):
    """Return folders of a pipeline and of its encodings of the data, by the pipeline's name."""
    root, made = tmp_path_factory.mktemp("encoded"), {}

    def find(name):
        if name not in made:
            pipeline, out = root / name, root / f"{name} encoded"
            save_pipeline(pipeline, PIPELINES[name])
            command = ["encode", pipeline, "--data", data, "--out", out, "--precision", "float32", "--batch-size", "3"]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(encoding, "MOST_IMAGES", PER_SHARD)
                assert run([str(word) for word in command]) == 0
            made[name] = pipeline, out
        return made[name]

    return find
