"""Figures can be read, compared, drawn and estimated, and say how sure they are; bad input is one sentence."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from d2o.bench import estimate, generation, machine, measure, memory, report, start
from d2o.bench.problem import Choice
from d2o.cli.main import run
from d2o.training.recipes import named

from .found import FOUND


def test_figures_are_written_drawn_and_compared(tmp_path, capsys):
    path = tmp_path / "bench.json"
    report.write(str(path), FOUND)
    assert report.read(str(path)) == FOUND
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    report.show({**FOUND, "images_per_second": {"d2o_f": 75.0}}, FOUND)
    shown = capsys.readouterr().out
    assert "1.50" in shown
    assert "a note" in shown


def test_a_comparison_is_part_of_the_json(tmp_path, capsys, monkeypatch):
    report.write(str(tmp_path / "old.json"), FOUND)
    found = {**FOUND, "images_per_second": {"d2o_f": 75.0, "new": 1.0}}
    monkeypatch.setattr(measure, "measure", lambda *_: dict(found))
    assert run(["bench", "--json", "--compare", str(tmp_path / "old.json")]) == 0
    assert json.loads(capsys.readouterr().out)["compared"] == {"d2o_f": 1.5}


def test_a_comparison_says_in_what_the_runs_differ():
    other = {
        **FOUND,
        "settings": {**FOUND["settings"], "batch": 8},
        "machine": {**FOUND["machine"], "peak_gflops": 1.0},
    }
    assert report.differences(FOUND, FOUND) == []
    assert report.differences(other, FOUND) == ["Compared with a run of another batch: 4, now 8."]


def test_all_that_is_repeated_has_a_spread(tmp_path, tiny_denoiser, monkeypatch):
    student = tiny_denoiser()
    monkeypatch.setattr(generation, "TEACHER_STEPS", 2)
    monkeypatch.setattr(generation, "engines", lambda *_: ({"eager": lambda noise, _: noise.sum()}, []))
    found: dict = {"images_per_second": {}, "ratio": {}, "spread": {}, "notes": []}
    measure.sampling(student, student, 3, tmp_path, found)
    measure.note(found, "images_per_second", {"loads": generation.loading(student, 3, tmp_path)})
    measure.evaluation(tmp_path, found, count=64, part=64, repeats=2)
    assert {"sample_student", "eager_batch1", "loads", "evaluation", "features"} < set(found["images_per_second"])
    assert set(found["spread"]) == {*found["images_per_second"], *found["seconds"]}
    assert all(0 < value < math.inf for value in found["spread"].values())


def test_spread_is_the_range_by_the_median():
    found: dict = {"spread": {}}
    measure.note(found, "seconds", {"x": [1.0, 2.0, 4.0]})
    assert found == {"seconds": {"x": 2.0}, "spread": {"x": 1.5}}


def test_an_engine_that_cannot_be_compiled_is_left_out(tmp_path, tiny_denoiser, monkeypatch):
    def broken(*_):
        raise RuntimeError("no Python.h")

    monkeypatch.setattr(generation, "compile_network", lambda denoiser: denoiser.backbone.compile(backend=broken))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ready, missing = generation.engines(tiny_denoiser(), tmp_path)
    assert set(ready) == {"eager"}
    assert "no Python.h" in missing[0]


def test_from_a_command_to_its_first_step(tmp_path):
    assert 0.5 < start.until_logged(tmp_path / "run", "--set", "discriminator.weights=random") < start.LONGEST
    with pytest.raises(ValueError, match=r"did not come to train: d2o: .*batch_size"):
        start.until_logged(tmp_path / "wrong", "--batch", "0")


def test_a_process_that_dies_names_the_batch(monkeypatch):
    monkeypatch.setattr(memory.subprocess, "run", lambda *a, **_: subprocess.CompletedProcess(a, -9, "", ""))
    monkeypatch.setattr(memory.sys, "platform", "linux")
    with pytest.raises(ValueError, match=r"smaller --batch.*signal 9"):
        memory.peak(memory.Run(Choice("digits-d2o-f", None, 4), "d2o_f", plain=False))


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"images_per_second": 3}', '{"images_per_second": {"x": "fast"}}']
)
def test_what_holds_no_figures_is_refused(tmp_path, capsys, content):
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content)
    assert run(["bench", "--compare", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch", "1"], "--batch at least 2"),
        (["--out", "figures.txt"], "must end in .json"),
        (["--out", "no/such/folder/figures.json"], "does not exist"),
        (["--recipe", "pretrain"], "not one of D2O-F"),
        (["--recipe", "cifar10-small-d2of"], "did you mean 'cifar10-small-d2o-f'"),
    ],
)
def test_bad_options(capsys, arguments, words):
    assert run(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_memory_is_measured_in_a_process_of_its_own():
    grown = memory.peak(memory.Run(Choice("digits-d2o-f", None, 4), "d2o_f", plain=False))
    assert grown is None or 10 * 2**20 < grown < 2**31
    now = machine.resident("VmRSS")
    assert machine.resident("VmHWM") > 0.9 * now > 0


def test_an_estimate_of_digits(capsys, monkeypatch):
    monkeypatch.setattr(estimate, "SECONDS", 0.5)
    assert run(["estimate", "digits-d2o-f", "--images", "7200", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert math.isclose(found["hours"], 2 / found["images_per_second"])
    assert 0.8 < found["frozen_share"] < 0.83
    assert 0 < found["memory_gib"] < 8
    assert 0.001 < found["disk_gib"] < 0.1
    assert found["micro_batch"] == 64


def test_an_estimate_counts_what_is_remembered(monkeypatch):
    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    monkeypatch.setattr(estimate, "disk_bytes", lambda *_: 0)
    recipe = named("digits-d2o-f")
    few, many = (estimate.estimate("digits-d2o-f", replace(recipe, duration=n)) for n in (6_400, 64_000_000))
    assert 1.9 < many.memory_gib - few.memory_gib < 2
    assert few.disk_gib == 0 < many.disk_gib <= 8


def test_an_estimate_says_what_does_not_fit():
    wide = estimate.Estimate(1.0, 100.0, 30.0, 20.0, 2.0, 1.0, 8, 16, 0.8, 10)
    lines = "\n".join(wide.sentences(named("d2o-f")))
    assert "4 days" in lines
    assert "--micro-batch 16 would fit" in lines
    assert "not even two" in "\n".join(replace(wide, micro_batch=1).sentences(named("d2o-f")))
    assert "not fit on the disk" in lines


def test_an_estimate_tries_nothing_that_cannot_fit(capsys, monkeypatch):
    monkeypatch.setattr(estimate, "available", lambda _: 10**6)
    monkeypatch.setattr(estimate, "measure", None)
    assert run(["estimate", "digits-d2o-f"]) == 2
    assert "not even two fit" in capsys.readouterr().err


def test_an_estimate_takes_a_file_that_is_named_like_a_preset(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    assert run(["recipes", "digits-d2o-f"]) == 0
    (tmp_path / "digits-mine.yaml").write_text(capsys.readouterr().out)
    assert run(["estimate", "digits-mine.yaml", "--precision", "auto"]) == 0
    assert "images/s" in capsys.readouterr().out


def test_an_estimate_needs_a_network(capsys):
    assert run(["estimate", "d2o-f"]) == 2
    assert "--from" in capsys.readouterr().err
