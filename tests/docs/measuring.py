"""Benchmarks that the documentation names, at reduced size: judges, memory, sharding, loading, a GPU's check."""

import contextlib
import io
import json
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import d2o
from conftest import make_denoiser

from .test_commands import ROOT

BENCHMARKS = ROOT / "benchmarks"


def finished(*words: str | Path, **smaller: Any) -> str:
    """Run a program to its end, some of its names changed, and return what it printed.

    It runs in this process, which has imported what it needs.
    """
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [*map(str, words)])
        try:
            if smaller:
                own = runpy.run_path(str(words[0]))["main"].__globals__
                assert own.keys() >= smaller.keys()
                own |= smaller
                own["main"]()
            else:
                runpy.run_path(str(words[0]), run_name="__main__")
        except SystemExit as stop:
            assert not stop.code, stop.code
    return said.getvalue()


def write_few(file: Path) -> Path:
    """Write 80 images of ten classes that are as large as the digits."""
    pixels = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), np.uint8)
    np.savez(file, images=pixels, labels=np.arange(80) % 10)
    return file


def sharding(line: str, _) -> None:
    found = json.loads(finished(*shlex.split(line)[1:], "--iterations", "1"))
    assert found["processes"] == 1 and 2 * found["gradients"] == pytest.approx(found["moments"], abs=0.01)


def own_features(_, place: Path) -> None:
    """Rehearse all of it; what the page says is what the records say."""
    finished(BENCHMARKS / "own_features.py", "--rehearse", "--runs", place)
    sys.path.insert(0, str(BENCHMARKS))
    import own_features as sweep  # type: ignore[import-not-found]
    from own_features_report import HEADING, section  # type: ignore[import-not-found]
    from study_records import read_lines  # type: ignore[import-not-found]

    rows = read_lines(place / "rehearsal" / sweep.RESULTS.name)
    assert {row["data"] for row in rows} == {"digits-8", "cifar10-16"}
    assert (place / "rehearsal" / sweep.PAGE.name).read_text() == section(rows)
    page = sweep.PAGE.read_text()
    assert page[page.index(HEADING) :] == section(read_lines(sweep.RESULTS))


def memory(*_) -> None:
    """Measure what is held, on digits."""
    own = runpy.run_path(str(BENCHMARKS / "memory.py"))
    options = own["argparse"].Namespace(recipe="digits-d2o-f", batch=2)
    for way in ("small", "checkpointed"):
        own["WAYS"].pop(way)
    found = own["measure_ways"](options, ("held",))
    assert 0.2 < found["plain"]["state"] / found["v010"]["state"] < 0.6
    assert 0 < found["plain"]["checkpoint"] < found["v010"]["checkpoint"]


def loading(*_) -> None:
    assert "JPEG 256x256" in finished(BENCHMARKS / "loading.py", "--images", "8", "--seconds", "0.01")


def gpu(_, place: Path) -> None:
    """Rehearse the shortest part, with both files; the others are tried by tests/benchmarks/test_gpu.py."""
    words = ["--rehearse", "--parts", "machine", "--out", place / "gpu.json", "--markdown", place / "gpu.md"]
    (place / "gpu.md").write_text("How.\n\n## Results\n\nNone yet.\n")
    assert "failed: nothing" in finished(BENCHMARKS / "gpu.py", *words)
    assert json.loads((place / "gpu.json").read_text())["failed"] == []
    text = (place / "gpu.md").read_text()
    assert text.startswith("How.") and "### Machine" in text and "None yet" not in text


def study_speeds(_, place: Path) -> None:
    """Time two rows at toy size, one of which has two stages."""
    words = ["--quick", "--rows", "d2o-f,sketch-gan", "--runs", place, "--results", place]
    finished(BENCHMARKS / "study_speeds.py", *words, ITERATIONS=4, TURN=2)
    rows = json.loads((place / "quick" / "speeds.json").read_text())["rows"]
    assert {name: len(row["per_image"]) for name, row in rows.items()} == {"d2o-f": 2, "sketch-gan": 2}


def time_to_quality(*_) -> None:
    """Print what was measured, as no race is short."""
    found = json.loads(finished(BENCHMARKS / "time_to_quality.py", "--json"))
    assert {"seconds", "images", "ratio", "seeds", "spaces"} <= found.keys()


def cifar10_32(_, place: Path) -> None:
    """Measure tiny models on random images; what is known is not measured again."""
    made = make_denoiser(channels=3, classes=10, resolution=32).replace(image_shape=(3, 32, 32))
    d2o.save(place / "model.safetensors", made)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    np.savez(place / "data.npz", images=pixels)
    model = place / "model.safetensors"
    words = ["--data", place / "data.npz", "--teacher", f"10={model}", f"20={model}", "--student", model]
    where = {"RESULTS": place / "found.json", "IMAGES": place}
    finished(BENCHMARKS / "cifar10_32.py", *words, "--images", "10", **where)
    found = json.loads((place / "found.json").read_text())
    assert [(row["images"], row["kind"]) for row in found] == [
        (10, "calls"), (20, "calls"), (20, "guided"), (20, "one"), (20, "student")
    ]  # fmt: skip
    again = finished(BENCHMARKS / "cifar10_32.py", *words, "--images", "10", **where)
    assert not again and (place / "cifar10-32-images.png").exists()
