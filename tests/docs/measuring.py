"""Benchmarks that the documentation names, at reduced size: memory, sharding, judges, loading, a GPU's check."""

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


def judges(_, place: Path) -> None:
    """Compare one row after two iterations, with few images."""
    judge, data = place / "classifier.safetensors", write_few(place / "few.npz")
    finished(BENCHMARKS / "feature_classifier.py", "--data", data, "--images", "128", "--out", judge)
    words = ["--from", "digits-teacher", "--data", data, "--classifier", judge, "--out", place / "rows.jsonl"]
    row = "digits-own-features discriminator.width=8 batch_size=8"
    finished(BENCHMARKS / "judges.py", *words, "--row", row, "--images", "16", "--marks", "1", "--compared", "8")
    assert json.loads((place / "rows.jsonl").read_text())["images"] == 16


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


def time_to_quality(*_) -> None:
    """Print what was measured, as no race is short."""
    found = json.loads(finished(BENCHMARKS / "time_to_quality.py", "--json"))
    assert {"seconds", "images", "ratio", "seeds", "spaces"} <= found.keys()
