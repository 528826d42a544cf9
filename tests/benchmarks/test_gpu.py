"""The check of a GPU runs on a processor; what fails is a row, and tables hold what was found."""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu
import gpu_parts
import gpu_steps
from gpu_tools import Setting, attempt, plan

SETTING = Setting(torch.device("cpu"), time.monotonic() + 600, True)


def test_resumed_halves_are_the_whole():
    row = gpu_parts.compare_runs(SETTING, strict=True)
    assert row["differ_again"] == row["differ_resumed"] == 0 < row["tensors"]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_step_says_its_speed_memory_and_share():
    row = gpu_steps.step(SETTING, "cifar10", gpu_steps.WAYS[1], False, 1e9, 1e12, 0.0)
    assert row["share_of_peak"] == pytest.approx(1e9 * row["images_per_second"] / 1e12)
    assert row["peak_gib"] > 0 and row["batch"] == 2


def test_what_fails_is_a_row():
    def break_down():
        raise RuntimeError("out of\nmemory")

    assert attempt(SETTING, {"batch": 1}, break_down) == {"batch": 1, "error": "RuntimeError: out of memory"}
    late = replace(SETTING, end=time.monotonic() + 1, rehearse=False)
    assert "skipped" in attempt(late, {}, break_down, 5.0)


def test_a_part_that_breaks_keeps_its_rows(tmp_path, monkeypatch):
    def part(_):
        yield {"what": "first"}
        raise ValueError("second")

    monkeypatch.setitem(gpu_parts.PARTS, "broken", (1, part))
    assert not gpu_parts.work("broken", tmp_path / "rows", SETTING)
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert rows == [{"what": "first"}, {"error": "ValueError: second"}]


def test_a_part_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0.05)
    options = argparse.Namespace(rehearse=False, parity=None, data=None)
    found = gpu.measure("machine", options, 0.05)
    assert "ended" in found["rows"][-1]["error"]


def test_tables_have_a_column_for_every_name():
    text = gpu.draw_table([{"what": "a|b", "kept": True}, {"what": "c", "rate": 1234.5, "share": 0.1234}])
    assert text.splitlines() == [
        "| what | kept | rate | share |",
        "| --- | --- | --- | --- |",
        "| a\\|b | yes |  |  |",
        "| c |  | 1,234 | 0.123 |",
    ]


def test_recipes_are_those_of_full_size_but_in_a_rehearsal():
    recipe, (network, shape, classes) = plan(replace(SETTING, rehearse=False), "imagenet64")
    assert recipe.discriminator.size == 224 and (network["channels"], shape, classes) == (192, (3, 64, 64), 1000)
