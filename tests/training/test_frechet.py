"""Runs by the Frechet objective: measured once, resumed to the same bits, and honest about what they minimise."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from d2o.checkpoints import native
from d2o.cli.main import run
from d2o.objectives import Frechet
from d2o.objectives.frechet import Sums
from d2o.planning import estimate as estimating
from d2o.planning.estimate import estimate
from d2o.planning.gpu_memory import measure_memory
from d2o.training import run as runs
from d2o.training.recipes import METHODS

from .command import arguments, assert_same_result

SHORT = {"240": "64", "120": "32"}
"""Images of a run, and those at which it draws samples."""
PIXELS = ["--recipe", "frechet", "--set", 'objectives.0.spaces=["pixels"]', "--set", "objectives.0.size=32"]
SMALL = replace(METHODS["frechet-gan"], objectives=(Frechet(spaces=("lite0@32",), size=16, weights="random"),))


def words_of(*places: Path) -> list[str]:
    return [*(SHORT.get(word, word) for word in arguments(*places)), *PIXELS]


@pytest.mark.parametrize("population", ["queue", "moments"])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, teacher, tiny_data, monkeypatch, population):
    changes = ["--set", f"objectives.0.population={population}", "--micro-batch", "4"]
    words = {name: [*words_of(teacher, tiny_data, tmp_path / name), *changes] for name in ("whole", "stopped")}
    assert run(words["whole"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(runs, "draw_samples", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert run(words["stopped"]) == 130
    assert native.read_header(tmp_path / "stopped" / "checkpoint.safetensors")["images"] == 32
    monkeypatch.setattr(runs, "begin", lambda *_, **__: pytest.fail("the data were measured again"))
    assert run(words["stopped"]) == 0
    for picture in (tmp_path / "stopped" / "samples", tmp_path / "whole" / "samples"):
        (picture / "00000032.png").unlink(missing_ok=True)
    assert_same_result(tmp_path / "stopped", tmp_path / "whole")


def test_it_brings_the_moments_nearer(tmp_path, teacher, tiny_data):
    assert run(words_of(teacher, tiny_data, tmp_path / "run")) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"].keys() == {"student"}
    assert lines[-1]["loss"]["student"] < 0.95 * lines[0]["loss"]["student"]


def test_the_pass_before_training_can_be_stopped(tmp_path, teacher, tiny_data, monkeypatch):
    words = words_of(teacher, tiny_data, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Sums, "add", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert run(words) == 130
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert run(words) == 0


def test_a_run_and_an_evaluation_say_that_the_measure_was_minimised(tmp_path, teacher, tiny_data, capsys):
    out = tmp_path / "run"
    again = ["--features", "pixels", "--evaluate-every", "1000", "--evaluate-images", "10"]
    assert run([*words_of(teacher, tiny_data, out), *again]) == 0
    sentence = "trained against pixels, which is the metric's pixel features"
    assert sentence in capsys.readouterr().err
    words = ["evaluate", str(out), str(tiny_data), "--features", "pixels", "--images", "10"]
    assert run(words) == 0
    assert sentence in capsys.readouterr().out


def test_its_cost_can_be_told_before(tiny_denoiser, monkeypatch, tmp_path):
    monkeypatch.setattr(estimating, "SECONDS", 0.0)
    recipe = replace(SMALL, batch_size=4, duration=40)
    assert estimate("frechet", recipe, tiny_denoiser(channels=3), tmp_path).images_per_second > 0
    memory = measure_memory(recipe, tiny_denoiser(channels=3))
    assert memory is not None
    assert memory.weights["frechet"] > 4 * 1280 * 1280  # the axes alone
    assert memory.student > 0 and torch.tensor(memory.image) > memory.student
