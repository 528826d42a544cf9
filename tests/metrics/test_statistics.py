"""Moments are those of the definition in any batching, and files give back what was stored."""

from pathlib import Path

import numpy as np
import pytest

from d2o.metrics.statistics import accumulate, features_of, holds_statistics, load, save


def batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


@pytest.fixture
def rows() -> np.ndarray:
    """Return correlated features far from zero, where careless sums of squares lose their digits."""
    random = np.random.default_rng(1)
    return (random.standard_normal((203, 5)) @ random.standard_normal((5, 5)) + 1000).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 7, 203])
@pytest.mark.parametrize("keep", [True, False])
def test_streamed_moments_are_numpys(rows: np.ndarray, size: int, keep: bool) -> None:
    found = accumulate(batches(rows, size), "test", keep=keep)
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(exact, rowvar=False), rtol=1e-9)
    assert found.count == 203 and found.mean.dtype == found.covariance.dtype == np.float64
    assert (found.values is not None) == keep


def test_kept_features_have_moments_that_do_not_depend_on_the_batch_size(rows: np.ndarray) -> None:
    one, other = accumulate(batches(rows, 3), "test"), accumulate(batches(rows, 100), "test")
    assert np.array_equal(one.mean, other.mean) and np.array_equal(one.covariance, other.covariance)


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
    saved = accumulate(batches(rows, 50), "lite2@64", keep=keep)
    save(path, saved)
    found = load(path)
    assert (found.space, found.count) == ("lite2@64", 203)
    assert np.array_equal(found.mean, saved.mean) and np.array_equal(found.covariance, saved.covariance)
    assert (found.values is not None) == keep
    if found.values is not None and saved.values is not None:
        assert np.array_equal(found.values, saved.values)
    assert holds_statistics(path) and [p.name for p in tmp_path.iterdir()] == ["statistics.npz"]


def test_a_public_reference_file_is_taken_for_inception(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    np.savez(path, mu=np.zeros(2048), sigma=np.eye(2048, dtype=np.float32))
    found = load(path)
    assert found.space == "inception@299" and found.count is None and found.values is None
    assert found.covariance.dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.zeros(3)}, "no sigma"),
        ({"sigma": np.eye(3)}, "no mu"),
        ({"mu": np.zeros(3), "sigma": np.eye(4), "space": "x"}, r"\[D,D\]"),
        ({"mu": np.zeros((3, 1)), "sigma": np.eye(3), "space": "x"}, r"\[D\]"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "feature space"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3), "space": "x"}, "NaN"),
        ({"mu": np.zeros(3), "sigma": np.eye(3), "space": "x", "features": np.zeros((9, 4))}, "do not fit"),
        ({"mu": np.array([None, {}, 1]), "sigma": np.eye(3)}, "cannot be read"),
    ],
)
def test_files_that_are_wrong_are_named(tmp_path: Path, arrays: dict, words: str) -> None:
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=f"wrong.npz.*{words}"):
        load(path)


def test_files_that_are_no_arrays_are_named(tmp_path: Path) -> None:
    path = tmp_path / "text.npz"
    path.write_text("not a zip")
    assert not holds_statistics(path)
    with pytest.raises(ValueError, match=r"text\.npz cannot be read"):
        load(path)
    with pytest.raises(ValueError, match=r"absent\.npz"):
        load(tmp_path / "absent.npz")


def test_image_files_hold_no_statistics(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, images=np.zeros((2, 4, 4, 3), np.uint8))
    assert not holds_statistics(path) and not holds_statistics(tmp_path)


@pytest.mark.parametrize("rows", [np.full((9, 3), np.nan), np.full((9, 3), np.inf), np.zeros((1, 3)), np.zeros((0, 3))])
def test_broken_or_missing_features_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"NaN|at least 2"):
        accumulate([rows], "test")
