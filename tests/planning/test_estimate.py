"""An estimate takes iterations of the run itself, on random images and weights, and says what does not fit."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from d2o.cli.commands.estimate import describe
from d2o.cli.main import run
from d2o.planning import estimate as estimating
from d2o.planning.estimate import Estimate, estimate
from d2o.planning.gpu_memory import GIB, Memory
from d2o.training import memory
from d2o.training.recipes import find_recipe


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "SECONDS", 0.0)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the seconds of counting what a GPU would hold, which test_digits and test_gpu_memory.py do."""
    memory = Memory({"student": GIB, "ema": GIB}, GIB, GIB, 0, 1, 1, 1, fixed=4 * GIB, image=GIB // 2)
    monkeypatch.setattr("d2o.cli.commands.estimate.measure_memory", lambda *_: memory)


def test_digits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "SECONDS", 1.0)
    assert run(["estimate", "digits-d2o-f", "--images", "7200", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert math.isclose(found["hours"], 2 / found["images_per_second"])
    assert 0.8 < found["frozen_share"] < 0.83
    assert 0 < found["memory_gib"] < 8
    assert 0.001 < found["disk_gib"] < 0.1
    assert found["micro_batch"] == 64
    gpu = found["gpu"]
    parts = sum(gpu["weights_gib"].values()) + gpu["moments_gib"]
    assert parts < gpu["total_gib"] < 8
    assert gpu["micro_batch"] == 64 and gpu["fitting"]["80"] > gpu["fitting"]["24"] > 64


def test_the_hours_of_stages_are_added_up(capsys, counted) -> None:
    assert run(["estimate", "digits-sketch-gan", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert math.isclose(found["hours"], sum(stage["hours"] for stage in found["stages"]))
    assert [stage["gpu"] is None for stage in found["stages"]] == [False, False]
    assert run(["estimate", "digits-teacher-images"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "Stage 1 of 2" and "All stages: " in told[-1] and "teacher" in told[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_a_peak_before_does_not_hide_the_next() -> None:
    cpu = torch.device("cpu")
    held = torch.ones(100 << 20)  # 400 MiB
    high = memory.peak_memory(cpu)
    del held
    estimating.restart_peak_memory(cpu)
    assert memory.peak_memory(cpu) < high - (300 << 20)


def test_cached_features_count() -> None:
    recipe = find_recipe("digits-d2o-f")
    few, many = (estimate("digits-d2o-f", replace(recipe, duration=count)) for count in (6_400, 64_000_000))
    assert many.memory_gib - few.memory_gib > 1.5
    assert few.disk_gib < 0.1 < many.disk_gib < 9


def test_what_does_not_fit_is_said_with_a_remedy() -> None:
    wide = Estimate(1.0, 100.0, 30.0, 20.0, 2.0, 1.0, 8, 16, 0.8, 10)
    lines = "\n".join(describe(wide, find_recipe("d2o-f")))
    assert "4 days" in lines
    assert "--micro-batch 16" in lines
    assert "disk" in lines.splitlines()[-1]
    assert "discriminator.size" in "\n".join(describe(replace(wide, micro_batch=1), find_recipe("d2o-f")))


def test_what_does_not_fit_here_is_not_tried(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, counted: None
) -> None:
    monkeypatch.setattr("d2o.cli.commands.estimate.free_memory", lambda _: 10**5)
    monkeypatch.setattr(estimating, "train", None)
    assert run(["estimate", "digits-d2o-f"]) == 0
    told = capsys.readouterr().out
    assert "frozen" in told and "checkpointing" in told and "GiB" in told


def test_gradients_that_do_not_fit_are_refused_before_any_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "free_memory", lambda _: 10**5)
    monkeypatch.setattr(estimating, "train", None)
    with pytest.raises(ValueError, match="frozen"):
        estimate("digits-d2o-f", find_recipe("digits-d2o-f"))


def test_a_file_may_be_named_like_a_preset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, counted: None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["recipes", "digits-d2o-f"]) == 0
    (tmp_path / "digits-mine.yaml").write_text(capsys.readouterr().out)
    assert run(["estimate", "digits-mine.yaml", "--precision", "auto"]) == 0
    assert "images/s" in capsys.readouterr().out


def test_a_recipe_for_any_size_needs_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", "d2o-f"]) == 2
    assert "--from" in capsys.readouterr().err


def test_limits_of_a_container_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit, used = tmp_path / "max", tmp_path / "current"
    limit.write_text("3000000\n")
    used.write_text("1000000\n")
    monkeypatch.setattr(memory, "CGROUP", (str(limit), str(used)))
    assert memory.free_memory(torch.device("cpu")) == 2_000_000
    limit.write_text("max\n")
    assert (memory.free_memory(torch.device("cpu")) or 10**9) > 2_000_000
