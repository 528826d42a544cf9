"""Runs that are left half-way through an iteration, and runs that are asked to be longer."""

import json
import signal
import time

import pytest

from d2o.checkpoints import native
from d2o.cli.main import run
from d2o.training import leaving
from d2o.training.leaving import Between

from .command import BATCH, IMAGES, arguments, assert_same_result


@pytest.mark.parametrize("place", [3, 6, 18, 21, 25])
def test_a_slow_iteration_is_left_between_micro_batches(tmp_path, teacher, tiny_data, monkeypatch, capsys, place):
    """Two turns of four micro-batches each: the first iteration, and both turns of the third one, and the fourth's."""
    words, ask, passed = [*arguments(teacher, tiny_data, tmp_path / "whole"), "--images", "40"], Between.__call__, []
    words += ["--micro-batch", "2", "--save-every", "40", "--sample-every", "40"]

    def pass_slowly(self):
        passed.append(self)
        time.sleep(0.05)
        if len(passed) == place:
            signal.raise_signal(signal.SIGINT)
        ask(self)
        assert len(passed) != place, "it went on"

    monkeypatch.setattr(leaving, "SLOW", 0.1)
    monkeypatch.setattr(leaving, "BYTES", 1 << 40)
    assert run(words) == 0
    monkeypatch.setattr(Between, "__call__", pass_slowly)
    words[words.index(str(tmp_path / "whole"))] = str(tmp_path / "left")
    assert run(words) == 130
    assert len(passed) == place and "same command continues" in capsys.readouterr().err
    checkpoint = tmp_path / "left/checkpoint.safetensors"
    assert (native.read_header(checkpoint)["images"] if checkpoint.exists() else 0) == (place - 1) // 8 * BATCH
    monkeypatch.setattr(Between, "__call__", ask)
    assert run(words) == 0
    assert_same_result(tmp_path / "left", tmp_path / "whole")


def test_a_longer_run_is_that_of_the_whole_length(tmp_path, finished, teacher, tiny_data, capsys):
    words = arguments(teacher, tiny_data, tmp_path / "run")
    assert run([*words, "--images", "120"]) == 0
    assert run(words) == 0
    assert "from 120 images to 240: as if started with this length" in capsys.readouterr().err
    assert_same_result(tmp_path / "run", finished)
    assert json.loads((tmp_path / "run/recipe.json").read_text())["recipe"]["duration"] == IMAGES
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")}
    assert run([*words, "--images", "120"]) == 2
    assert "240 or more" in capsys.readouterr().err
    assert run([*words, "--images", "480", "--seed", "1"]) == 2
    assert "recipe.seed" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")} == before


def test_a_longer_run_says_where_its_schedule_is_another(tmp_path, teacher, tiny_data, capsys):
    words = [*arguments(teacher, tiny_data, tmp_path / "run"), "--set", "learning_rate_decay=linear"]
    assert run([*words, "--images", "16"]) == 0
    assert run([*words, "--images", "32"]) == 0
    assert "its learning rate decays (linear)" in capsys.readouterr().err
    rates = [json.loads(row)["learning_rate"] for row in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 5e-4])


def test_progressive_distillation_has_the_length_that_it_began_with(tmp_path, teacher, tiny_data, capsys):
    words = ["finetune", "--from", str(teacher), "--data", str(tiny_data), "--out", str(tmp_path / "run")]
    words += ["--recipe", "pd", "--batch", "8", "--set", "objectives.0.steps=4"]
    assert run([*words, "--images", "448"]) == 0
    assert run([*words, "--images", "896"]) == 2
    assert "recipe.duration is 448, not 896" in capsys.readouterr().err
