"""Embeddings are functions of each image alone, whatever the container, the order and the company."""

import time

import numpy as np
import pytest
import torch

from d2o.features.embedding import SPACES, embedding


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("D2O_WEIGHTS", raising=False)


def images(count: int = 4, side: int = 16, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


@pytest.mark.parametrize("name", ["lite2", "lite0@32", "pixels", "pixels@8"])
def test_features_are_rows_of_finite_numbers(name: str) -> None:
    space = embedding(name)
    features = space(images())
    assert features.dtype == torch.float32
    assert features.shape[0] == 4
    assert features.isfinite().all()
    assert not torch.allclose(features[0], features[1])


def test_names_are_canonical() -> None:
    assert embedding("lite2").name == "lite2@64"
    assert embedding("lite2@64").name == "lite2@64"
    assert embedding("pixels").name == "pixels"
    assert SPACES["lite0"].family == SPACES["lite2"].family


def test_pixels_are_the_pixels() -> None:
    black_and_white = np.zeros((2, 4, 4, 3), np.uint8)
    black_and_white[1] = 255
    features = embedding("pixels")(black_and_white)
    assert torch.equal(features, torch.tensor([-1.0, 1.0])[:, None].expand(2, 48))


@pytest.mark.parametrize("name", ["lite2", "pixels@4"])
def test_neither_company_nor_container_matters(name: str) -> None:
    space, batch = embedding(name), images()
    together = space(batch)
    alone = torch.cat([space(torch.tensor(batch[index : index + 1])) for index in range(4)])
    assert torch.allclose(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("error")
def test_read_only_and_mirrored_arrays_are_read() -> None:
    batch = images()
    expected = embedding("pixels")(batch[:, :, ::-1].copy())
    batch.setflags(write=False)
    assert torch.equal(embedding("pixels")(batch[:, :, ::-1]), expected)


@pytest.mark.parametrize("name", ["lite2", "lite0"])
def test_grey_is_colour_with_equal_channels(name: str) -> None:
    space, grey = embedding(name), images(channels=1)
    assert torch.allclose(space(grey), space(grey.repeat(3, axis=-1)), atol=1e-6)


def test_resizing_keeps_constant_images_constant() -> None:
    constant = np.full((1, 7, 7, 1), 51, np.uint8)
    assert torch.allclose(embedding("pixels@5")(constant), torch.full((1, 25), -0.6), atol=1e-6)


def test_training_mode_does_not_reach_it() -> None:
    space = embedding("lite2")
    expected = space(images())
    space.train()
    assert torch.equal(space(images()), expected)
    assert not any(module.training for module in space.modules())


def test_inception_takes_images_as_they_are() -> None:
    space = embedding("inception", "random")
    features = space(images(count=2))
    assert (space.name, features.shape) == ("inception@299", (2, 2048))
    assert features.std() > 0.01


def test_inception_offline_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"inception.*D2O_WEIGHTS"):
        embedding("inception")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fid", "fid.*lite2"),
        ("lite2@", "positive.*lite2@64"),
        ("lite2@0", "positive.*lite2@64"),
        ("lite2@-3", "positive.*lite2@64"),
        ("inception@64", "299"),
        ("dinov2@100", "14"),
    ],
)
def test_wrong_names_are_explained(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        embedding(name, "random")


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.uint8)],
)
def test_other_arrays_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        embedding("pixels")(wrong)
