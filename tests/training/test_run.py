"""Runs on disk, through the command line: killed, interrupted, refused, finished, diverged; the bits are the same."""

import json
import os
import shutil
import signal
from typing import Any, cast

import numpy as np
import pytest
import torch
from filelock import FileLock

import d2o
from d2o.checkpoints import native
from d2o.cli.main import run
from d2o.data.files import write_images
from d2o.training import run as runs
from d2o.training.run_directory import LOCK

from .command import BATCH, IMAGES, arguments, assert_same_result


def test_a_run_leaves_what_it_promises(finished, teacher):
    assert {f.name for f in finished.iterdir()} == {
        ".lock", "recipe.json", "metrics.jsonl", "samples", "checkpoint.safetensors", "previous.safetensors",
        "ema.safetensors", "student.safetensors",
    }  # fmt: skip
    lines = [json.loads(row) for row in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == list(range(BATCH, IMAGES + 1, BATCH))
    assert all({"student", "discriminator"} <= line["loss"].keys() and line["skipped"] == 0 for line in lines)
    asked = json.loads((finished / "recipe.json").read_text())
    assert asked["recipe"]["duration"] == IMAGES and asked["recipe"]["frozen"]
    assert {f.name for f in (finished / "samples").iterdir()} == {"00000120.png", "00000240.png"}
    paths = (finished / "student.safetensors", finished, teacher)
    student, ema, start = cast("list[Any]", [d2o.load(path) for path in paths])
    pairs = zip(start.backbone.named_parameters(), ema.backbone.parameters(), strict=True)
    frozen = [name for (name, before), after in pairs if torch.equal(before, after)]
    assert {start.backbone.role(name) for name in frozen} == {"convolution", "projection"}
    assert any(not torch.equal(a, b) for a, b in zip(student.parameters(), ema.parameters(), strict=True))
    assert ema.preconditioning.kind == "boundary" and ema.provenance["recipe"] == asked["recipe"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_saves_itself_and_goes_on_to_the_same_bits(
    tmp_path, finished, teacher, tiny_data, monkeypatch, capsys, number
):
    words, draw = arguments(teacher, tiny_data, tmp_path / "stopped"), runs.draw_samples
    if signal.getsignal(number) == signal.SIG_IGN:  # as under nohup, where a run goes on
        signal.signal(number, signal.SIG_DFL)
    handlers = [signal.getsignal(one) for one in runs.STOPPING]

    def interrupt(directory, average, images, habits):
        draw(directory, average, images, habits)
        signal.raise_signal(number)

    monkeypatch.setattr(runs, "draw_samples", interrupt)
    capsys.readouterr()
    assert run(words) == 130
    assert "same command continues" in capsys.readouterr().err
    assert [signal.getsignal(one) for one in runs.STOPPING] == handlers
    assert native.read_header(tmp_path / "stopped/checkpoint.safetensors")["images"] == 120
    if number == signal.SIGINT:
        monkeypatch.undo()
        assert run(words) == 0
        assert_same_result(tmp_path / "stopped", finished)


def test_progress_is_a_readable_line(tmp_path, teacher, tiny_data, capsys):
    moments = []

    def follow(given, duration, title):
        moments.extend(given)

    judge = {"discriminator.weights": "random", "discriminator.size": 32, "discriminator.width": 16}
    d2o.finetune(teacher, tiny_data, "d2o-f", out=tmp_path, watch=follow, duration=16, batch_size=8, **judge)
    for shown in (moments[-1], moments[-1].progress):
        print(shown)
        line = capsys.readouterr().out
        assert line.count("\n") == 1 and len(line) < 160 and "16 images" in line and "student" in line, line


def test_a_second_interrupt_acts_at_once(tmp_path, teacher, tiny_data, monkeypatch, capsys):
    def interrupt_twice(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second interrupt was ignored")

    monkeypatch.setattr(runs, "draw_samples", interrupt_twice)
    assert run(arguments(teacher, tiny_data, tmp_path / "run")) == 130
    assert "Stopped." in capsys.readouterr().err


def test_signals_that_come_twice_are_one_and_what_nohup_ignores_stays_ignored(
    tmp_path, teacher, tiny_data, monkeypatch
):
    def terminate(*_):
        signal.raise_signal(signal.SIGHUP)
        for _ in range(count):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(runs, "draw_samples", terminate)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for count, code in ((0, 0), (2, 130)):
            assert run([*arguments(teacher, tiny_data, tmp_path / str(count)), "--sample-every", "240"]) == code
            assert native.read_header(tmp_path / str(count) / "checkpoint.safetensors")["images"] == 240
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_finished_run_is_left_alone(finished, teacher, tiny_data, capsys):
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*.safetensors")}
    assert run(arguments(teacher, tiny_data, finished)) == 0
    assert "already finished" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in finished.rglob("*.safetensors")} == before


def test_results_that_were_lost_at_the_end_are_written_again(tmp_path, finished, teacher, tiny_data):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "ema.safetensors").unlink()
    (out / "student.safetensors").unlink()
    assert run(arguments(teacher, tiny_data, out)) == 0
    assert_same_result(out, finished)


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        (["--seed", "1"], "recipe.seed"),
        (["--set", "objectives.0.r1=1e-3"], "recipe.objectives.0.r1"),
        (["--from", "another.safetensors"], "from"),
    ],
)
def test_another_run_in_the_same_directory_is_refused(
    tmp_path, monkeypatch, finished, teacher, tiny_data, capsys, extra, key
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(teacher, "another.safetensors")
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*")}
    assert run([*arguments(teacher, tiny_data, finished), *extra]) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("d2o: ")]
    assert str(finished) in sentence and key in sentence and "choose another directory" in sentence
    assert {file: file.stat().st_mtime_ns for file in finished.rglob("*")} == before


def test_a_directory_of_other_things_is_not_a_run(tmp_path, teacher, tiny_data, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert run(arguments(teacher, tiny_data, tmp_path)) == 2
    assert "not a d2o run" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_runs_do_not_work_in_one_directory(finished, teacher, tiny_data, capsys):
    with FileLock(finished / LOCK):  # as a run holds it that works; a killed one holds nothing
        assert run(arguments(teacher, tiny_data, finished)) == 2
    assert "A run is active" in capsys.readouterr().err
    assert run(arguments(teacher, tiny_data, finished)) == 0


def test_a_run_of_an_older_version_goes_on(finished, teacher, tiny_data, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run/recipe.json"
    asked = json.loads(file.read_text())
    del asked["recipe"]["discriminator"]["kind"], asked["recipe"]["objectives"][0]["middle_sigmas"]
    file.write_text(json.dumps(asked))
    assert run(arguments(teacher, tiny_data, tmp_path / "run")) == 0


class TestData:
    """A run goes on with its own images only, wherever they lie."""

    @pytest.fixture
    def out(self, finished, tmp_path):
        shutil.copytree(finished, tmp_path / "run")
        return tmp_path / "run"

    @pytest.fixture
    def tiny(self, tiny_data):
        return dict(np.load(tiny_data))

    @pytest.mark.parametrize("what", ["images", "labels"])
    def test_others_of_the_same_name_count_and_shape_are_refused(self, out, tiny, teacher, tmp_path, capsys, what):
        np.savez(tmp_path / "tiny.npz", **{**tiny, what: np.roll(tiny[what], 1, axis=0)})
        assert run(arguments(teacher, tmp_path / "tiny.npz", out)) == 2
        (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("d2o: ")]
        assert str(out) in sentence and "tiny" in sentence and "choose another directory" in sentence

    def test_another_preparation_is_refused(self, out, tiny, teacher, tmp_path, capsys):
        large = np.random.default_rng(1).integers(0, 256, (40, 32, 32, 1), dtype=np.uint8)
        np.savez(tmp_path / "large.npz", **{**tiny, "images": large})
        words = arguments(teacher, tmp_path / "large.npz", out.with_name("new"))
        words += ["--images", "8", "--resolution", "8", "--resize"]
        assert run([*words, "area"]) == 0
        assert run([*words, "area"]) == 0
        assert run([*words, "lanczos"]) == 2
        assert "large has other images" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["moved.zip", "folder"])
    def test_the_same_in_another_container_go_on(self, out, tiny, teacher, tmp_path, capsys, name):
        place = write_images(tmp_path / name, [tiny["images"]], labels=tiny["labels"].tolist())
        assert run(arguments(teacher, place, out)) == 0
        assert "already finished" in capsys.readouterr().err

    def test_a_run_that_knows_no_fingerprint_goes_on(self, out, tiny, tiny_data, teacher, tmp_path, capsys):
        asked = json.loads((out / "recipe.json").read_text())
        assert asked["data"].pop("fingerprint") == d2o.images(tiny_data).fingerprint
        (out / "recipe.json").write_text(json.dumps(asked))
        assert run(arguments(teacher, tiny_data, out)) == 0
        np.savez(tmp_path / "renamed.npz", **tiny)
        assert run(arguments(teacher, tmp_path / "renamed.npz", out)) == 2
        assert "its data.name is tiny, not renamed; choose another directory" in capsys.readouterr().err


def test_a_damaged_recipe_is_named(finished, teacher, tiny_data, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/recipe.json").write_text('{"recipe": {')
    assert run(arguments(teacher, tiny_data, tmp_path / "run")) == 2
    assert "recipe.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("save_every", [64, 16])
def test_weights_that_are_not_numbers_stop_the_run_and_name_a_good_checkpoint(
    tmp_path, teacher, tiny_data, monkeypatch, capsys, save_every
):
    step = runs.train

    def spoiled(recipe, networks, batches, **options):
        for progress in step(recipe, networks, batches, **options):
            yield progress
            if progress.images == 64:  # after this one's checkpoint
                with torch.no_grad():
                    networks.student.backbone.map_layer0.weight.fill_(float("nan"))

    monkeypatch.setattr(runs, "train", spoiled)
    assert run([*arguments(teacher, tiny_data, tmp_path / "run"), "--save-every", str(save_every)]) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    checkpoint = tmp_path / "run/checkpoint.safetensors"
    assert "gradients of the student" in sentence and f"image {64 + 4 * BATCH}" in sentence
    assert str(checkpoint) in sentence
    tensors, _ = native.read(checkpoint)
    assert all(tensor.isfinite().all() for tensor in tensors.values()), "the last good checkpoint is good"


def test_data_that_breaks_saves_the_run_first(tmp_path, teacher, tiny_data, monkeypatch, capsys):
    step, words = runs.train, arguments(teacher, tiny_data, tmp_path / "run")

    def broken(recipe, networks, batches, **options):
        def until():
            for number, batch in enumerate(batches):
                if number == 5:
                    raise OSError("img00000007.png is truncated")
                yield batch

        return step(recipe, networks, until(), **options)

    monkeypatch.setattr(runs, "train", broken)
    assert run(words) == 2
    assert "img00000007.png" in capsys.readouterr().err
    assert native.read_header(tmp_path / "run/checkpoint.safetensors")["images"] == 5 * BATCH


def test_the_environment_is_that_of_one_thread():
    assert torch.get_num_threads() == 1 and os.environ["OMP_NUM_THREADS"] == "1"  # else bits differ between processes
