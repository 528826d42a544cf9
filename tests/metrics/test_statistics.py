"""Moments are those of the definition in any batching, and files give back what was stored."""

from pathlib import Path

import numpy as np
import pytest

from d2o.metrics.statistics import accumulate, features_of, load, save
from refusal import refused


def batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


@pytest.fixture
def rows() -> np.ndarray:
    """Return correlated features far from zero, where careless sums of squares lose their digits."""
    random = np.random.default_rng(1)
    return (random.standard_normal((203, 5)) @ random.standard_normal((5, 5)) + 1000).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 7, 203])
def test_streamed_moments_are_numpys(rows: np.ndarray, size: int) -> None:
    found = accumulate(batches(rows, size), "test")
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(exact, rowvar=False), rtol=1e-9)
    assert found.count == 203 and found.mean.dtype == found.covariance.dtype == np.float64
    assert found.values is None


def test_a_stream_that_begins_far_from_its_mean_keeps_its_digits() -> None:
    rows = np.concatenate([np.full((3, 2), 1e4), np.random.default_rng(0).standard_normal((500, 2))])
    found = accumulate(batches(rows, 3), "test")
    np.testing.assert_allclose(found.covariance, np.cov(rows, rowvar=False), rtol=1e-9)


def test_features_in_memory_are_kept_with_their_moments(rows: np.ndarray) -> None:
    found, streamed = features_of(rows, "test"), accumulate(batches(rows, 9), "test")
    assert found.values is not None and np.array_equal(found.values, rows)
    np.testing.assert_allclose(found.covariance, streamed.covariance, rtol=1e-9)


def test_more_rows_than_a_chunk_have_the_same_moments() -> None:
    rows = np.random.default_rng(0).standard_normal((5000, 2)).astype(np.float32)
    np.testing.assert_allclose(
        features_of(rows, "test").covariance, np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-12
    )


def test_rows_are_a_part_with_its_own_moments(rows: np.ndarray) -> None:
    part = features_of(rows, "test").rows(10, 30)
    assert part.count == 20
    np.testing.assert_allclose(part.mean, rows[10:30].astype(np.float64).mean(0))


@pytest.mark.parametrize("keep", [True, False])
def test_a_file_gives_back_what_was_saved(tmp_path: Path, rows: np.ndarray, keep: bool) -> None:
    path = tmp_path / "statistics.npz"
    saved = features_of(rows, "lite2@64") if keep else accumulate(batches(rows, 50), "lite2@64")
    save(path, saved)
    found = load(path)
    assert (found.space, found.count) == ("lite2@64", 203)
    assert np.array_equal(found.mean, saved.mean) and np.array_equal(found.covariance, saved.covariance)
    assert (found.values is not None) == keep
    if found.values is not None and saved.values is not None:
        assert np.array_equal(found.values, saved.values)
    assert [p.name for p in tmp_path.iterdir()] == ["statistics.npz"]


def test_a_public_reference_file_is_taken_for_inception(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    np.savez(path, mu=np.zeros(2048), sigma=np.eye(2048, dtype=np.float32))
    found = load(path)
    assert found.space == "inception@299" and found.count is None and found.values is None
    assert found.covariance.dtype == np.float64


SPACE = {"mu": np.zeros(3), "sigma": np.eye(3), "space": "x"}


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({"mu": np.zeros(3)}, ["sigma"]),
        ({"sigma": np.eye(3)}, ["mu"]),
        (SPACE | {"sigma": np.eye(4)}, ["sigma", "(4, 4)", "[D,D]"]),
        (SPACE | {"mu": np.zeros((3, 1))}, ["mu", "(3, 1)", "[D]"]),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, ["`space`", "lite2@64"]),
        (SPACE | {"mu": np.full(3, np.nan)}, ["NaN"]),
        (SPACE | {"features": np.zeros((9, 4))}, ["features", "(9, 4)", "(3,)"]),
        ({"mu": np.array([None, {}, 1]), "sigma": np.eye(3)}, [".npz"]),
    ],
)
def test_files_that_are_wrong_are_named(tmp_path: Path, arrays: dict, names: list[str]) -> None:
    np.savez(tmp_path / "wrong.npz", **arrays)
    with refused("wrong.npz", *names):
        load(tmp_path / "wrong.npz")


def test_files_that_are_no_arrays_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not a zip")
    for name in ("text.npz", "absent.npz"):
        with refused(name):
            load(tmp_path / name)


@pytest.mark.parametrize("rows", [np.full((9, 3), np.nan), np.full((9, 3), np.inf), np.zeros((1, 3)), np.zeros((0, 3))])
@pytest.mark.parametrize("keep", [True, False])
def test_broken_or_missing_features_are_refused(rows: np.ndarray, keep: bool) -> None:
    with refused("images"):
        features_of(rows, "test") if keep else accumulate([rows], "test")
