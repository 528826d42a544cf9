"""A run on tar shards that is stopped goes on to the same bits, and to the same captions."""

import io
import signal
import tarfile
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from d2o.cli.main import run
from d2o.data.datasets import open_images
from d2o.training import loop, networks
from d2o.training import run as runs

from .command import arguments, assert_same_result
from .tiny import BATCH, RECIPES

SHORT = ["--images", "24", "--save-every", "8", "--sample-every", "8"]


@pytest.fixture
def shards(tmp_path):
    """Return a folder of three tar files with 20 grey images, their classes, and two captions each."""
    levels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    for shard in range(3):
        (tmp_path / "shards").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "shards" / f"{shard:05d}.tar", "w") as tar:
            for i in range(shard, 20, 3):
                png = io.BytesIO()
                Image.fromarray(levels[i]).save(png, "PNG")
                texts = b'{"caption": ["%d a", "%d b"]}' % (i, i)
                for ending, content in {"png": png.getvalue(), "cls": b"%d" % (i % 2), "json": texts}.items():
                    entry = tarfile.TarInfo(f"{i:04d}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return tmp_path / "shards"


def test_a_stopped_run_goes_on_to_the_same_bits(shards, teacher, tmp_path, monkeypatch):
    draw = runs.draw_samples

    def interrupt(*given):
        draw(*given)
        signal.raise_signal(signal.SIGTERM)

    assert run([*arguments(teacher, shards, tmp_path / "whole"), *SHORT]) == 0
    words = [*arguments(teacher, shards, tmp_path / "stopped"), *SHORT]
    with monkeypatch.context() as patch:
        patch.setattr(runs, "draw_samples", interrupt)
        assert run(words) == 130
    for index in shards.glob(".*.npz"):  # it is made again
        index.unlink()
    assert run(words) == 0
    assert_same_result(tmp_path / "stopped", tmp_path / "whole")


def test_captions_come_with_the_batches_of_a_run_and_of_its_second_half(shards, tiny_denoiser, monkeypatch):
    seen: list[tuple[str, ...]] = []
    make = loop.read_batch

    def watched(*given):
        seen.append(given[0].captions)
        return make(*given)

    monkeypatch.setattr(loop, "read_batch", watched)
    recipe, images = RECIPES["pretrain"], open_images(shards, channels=1)
    whole = loop.train(recipe, networks.networks(recipe, tiny_denoiser(classes=2)), images.batches(BATCH, seed=2))
    *_, middle = islice(whole, 3)
    state = middle.state()
    list(whole)
    batches = images.batches(BATCH, seed=2, start=state[1]["images"])
    list(loop.train(recipe, networks.networks(recipe, tiny_denoiser(classes=2)), batches, resume=state))
    assert len(seen) == 9 and all(len(texts) == BATCH for texts in seen)
    assert seen[6:] == seen[3:6] and len({text for texts in seen for text in texts}) > BATCH
