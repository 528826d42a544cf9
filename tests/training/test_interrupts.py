"""Ctrl-C at moments that take long: grids and evaluations are left out, a checkpoint half written does not count."""

import json
import signal

import torch

from d2o.checkpoints import native
from d2o.cli.main import run
from d2o.training import one_recipe
from d2o.training import run as runs
from d2o.training.run_directory import LOCK

from .command import BATCH, IMAGES, arguments


def test_an_interrupt_leaves_a_grid_and_an_evaluation_which_is_made_up_for(
    tmp_path, teacher, tiny_data, monkeypatch, capsys
):
    called = []

    def evaluate(denoiser):
        called.append(denoiser(torch.zeros(1, *denoiser.image_shape), 1.0, torch.zeros(1, dtype=torch.long)))
        return {"kid": 1.0}

    def interrupt(directory, average, images, habits):
        signal.raise_signal(signal.SIGINT)
        draw(directory, average, images, habits)

    draw = runs.draw_samples
    monkeypatch.setattr(one_recipe, "make_evaluate", lambda *_: evaluate)
    monkeypatch.setattr(runs, "draw_samples", interrupt)
    words = [*arguments(teacher, tiny_data, tmp_path / "run"), "--evaluate-every", "120"]
    assert run(words) == 130
    assert not called and not (tmp_path / "run/samples").exists()
    assert native.read_header(tmp_path / "run/checkpoint.safetensors")["images"] == 120
    monkeypatch.setattr(runs, "draw_samples", draw)
    assert run(words) == 0
    lines = [json.loads(row) for row in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["images"] for row in lines if "evaluation" in row] == [120 + BATCH, IMAGES] and len(called) == 2


def test_an_interrupt_within_a_checkpoint_leaves_the_one_before(tmp_path, teacher, tiny_data, monkeypatch, capsys):
    write = native.save_file

    def interrupt(tensors, path, metadata):
        write(tensors, path, metadata)
        if json.loads(metadata[native.SPEC]).get("images") == 48:
            signal.raise_signal(signal.SIGINT)  # asks to stop
            signal.raise_signal(signal.SIGINT)  # and at once

    monkeypatch.setattr(native, "save_file", interrupt)
    assert run(arguments(teacher, tiny_data, tmp_path / "run")) == 130
    assert native.read_header(tmp_path / "run/checkpoint.safetensors")["images"] == 32
    assert {file.name for file in (tmp_path / "run").glob(".*")} == {LOCK}
