"""Damage in a run's directory is noticed, said, and repaired as far as possible, whichever file it hits."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

import d2o
from d2o.checkpoints import native
from d2o.cli.main import run
from d2o.errors import CheckpointError
from d2o.training.run_directory import find_state, read_log, truncate_log
from refusal import refused

from .command import arguments, assert_same_result, complaint

CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "previous.safetensors"


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


@pytest.fixture
def out(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def put_directory(file: Path) -> None:
    file.mkdir()
    (file / "within").touch()


IN_THE_PLACE = {
    "nothing": lambda file: None,
    "empty": Path.touch,
    "zeros": lambda file: file.write_bytes(bytes(1000)),
    "garbage": lambda file: file.write_bytes(random.Random(0).randbytes(100_000)),
    "deep JSON": lambda file: file.write_text('{"images":' + "[" * 200_000 + "\n"),
    "a list": lambda file: file.write_text("[1, 2]\n"),
    "many lines": lambda file: file.write_bytes(b"\n" * (20 << 20)),
    "huge": lambda file: file.touch() or os.truncate(file, 30 << 30),
    "a directory": put_directory,
    "a pipe": os.mkfifo,
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a link to nothing": lambda file: file.symlink_to("nowhere"),
}


class TestCheckpoints:
    def test_no_flipped_bit_of_a_model_goes_unnoticed(self, tmp_path, teacher):
        file, good = tmp_path / "model.safetensors", teacher.read_bytes()
        tensors, spec = native.read(teacher)
        generator, refusals = random.Random(0), 0
        header = 8 * (8 + int.from_bytes(good[:8], "little"))
        for bit in [*generator.sample(range(header), 60), *generator.sample(range(header, 8 * len(good)), 60)]:
            file.write_bytes(good)
            flip(file, bit)
            try:
                again, described = native.read(file)
            except CheckpointError:
                refusals += 1
            else:  # at most the name of the checksum itself
                assert described == spec | {k: v for k, v in described.items() if k not in spec}
                assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
        assert refusals >= 115

    def test_what_is_wrong_with_a_model_is_said(self, tmp_path, teacher):
        shutil.copy(teacher, tmp_path / "model.safetensors")
        flip(tmp_path / "model.safetensors", 8 * (teacher.stat().st_size - 1))
        with refused("model.safetensors", "damaged", "again", error=CheckpointError):
            d2o.load(tmp_path / "model.safetensors")

    def test_the_previous_one_is_used_and_gives_the_same_bits(self, out, finished, teacher, tiny_data, capsys):
        assert [native.read_header(out / name)["images"] for name in (CHECKPOINT, PREVIOUS)] == [120, 112]
        flip(out / CHECKPOINT, 8 * (out / CHECKPOINT).stat().st_size - 1)
        assert run(arguments(teacher, tiny_data, out)) == 0
        (sentence,) = [line for line in capsys.readouterr().err.splitlines() if CHECKPOINT in line]
        assert "damaged" in sentence and "112" in sentence
        assert_same_result(out, finished)

    @pytest.mark.parametrize("name", [name for name in IN_THE_PLACE if name != "a directory"])
    def test_whatever_stands_in_the_place_of_the_newest(self, out, name):
        (out / CHECKPOINT).unlink()
        IN_THE_PLACE[name](out / CHECKPOINT)
        state = find_state(out)
        assert state is not None and state[1]["images"] == 112
        assert native.read_header(out / CHECKPOINT)["images"] == 112 and not (out / PREVIOUS).exists()

    def test_a_model_is_not_taken_for_a_checkpoint(self, out, teacher):
        shutil.copy(teacher, out / CHECKPOINT)
        state = find_state(out)
        assert state is not None and state[1]["images"] == 112

    def test_where_both_are_damaged_the_remedy_helps(self, out, finished, teacher, tiny_data, capsys):
        for name in (CHECKPOINT, PREVIOUS):
            flip(out / name, 8 * (out / name).stat().st_size - 1)
        capsys.readouterr()
        assert run(arguments(teacher, tiny_data, out)) == 2
        sentence = complaint(capsys.readouterr().err)
        assert str(out / CHECKPOINT) in sentence and f"remove {CHECKPOINT} and {PREVIOUS}" in sentence
        for name in (CHECKPOINT, PREVIOUS):
            (out / name).unlink()
        assert run(arguments(teacher, tiny_data, out)) == 0
        assert_same_result(out, finished)

    def test_damaged_results_are_written_again(self, finished, teacher, tiny_data, tmp_path):
        shutil.copytree(finished, tmp_path / "run")
        flip(tmp_path / "run/ema.safetensors", 8 * (finished / "ema.safetensors").stat().st_size - 1)
        assert run(arguments(teacher, tiny_data, tmp_path / "run")) == 0
        assert_same_result(tmp_path / "run", finished)

    def test_a_file_system_without_links_keeps_the_previous_one_too(self, out, teacher, tiny_data, monkeypatch):
        def refuse(*_):
            raise PermissionError

        monkeypatch.setattr(os, "link", refuse)
        assert run(arguments(teacher, tiny_data, out)) == 0
        assert [native.read_header(out / name)["images"] for name in (CHECKPOINT, PREVIOUS)] == [240, 224]


class TestLog:
    @pytest.mark.parametrize("name", IN_THE_PLACE)
    def test_whatever_stands_in_its_place_a_new_one_begins(self, tmp_path, name):
        log = tmp_path / "metrics.jsonl"
        IN_THE_PLACE[name](log)
        truncate_log(log, 16)
        assert not os.path.lexists(log) or log.read_bytes() == b""
        assert list(read_log(log)) == []

    @pytest.mark.parametrize(
        "damage", [b'{"imag', b"\xff\x00\n", b"\n\n", b'{"images": 32}\n', b'{"images":' + b"[" * 99999]
    )
    def test_damage_is_dropped_at_the_end_and_passed_over_within(self, tmp_path, damage):
        log, lines = tmp_path / "metrics.jsonl", b'{"images": 8}\n{"images": 16}\n'
        log.write_bytes(lines + damage)
        truncate_log(log, 16)
        assert log.read_bytes() == lines
        log.write_bytes(b'{"images": 8}\n' + damage + b'\n{"images": 40}\n')
        assert [line["images"] for line in read_log(log) if line["images"] != 32] == [8, 40]

    def test_a_run_goes_on(self, out, finished, teacher, tiny_data, capsys):
        (out / "metrics.jsonl").unlink()
        put_directory(out / "metrics.jsonl")
        assert run(arguments(teacher, tiny_data, out)) == 0
        assert "a new log begins" in capsys.readouterr().err
        assert [line["images"] for line in read_log(out / "metrics.jsonl")] == list(range(128, 241, 8))
        assert (out / "ema.safetensors").read_bytes() == (finished / "ema.safetensors").read_bytes()


@pytest.mark.parametrize("name", [name for name in IN_THE_PLACE if name != "nothing"])
def test_a_recipe_that_cannot_be_read_is_named(out, teacher, tiny_data, capsys, name):
    (out / "recipe.json").unlink()
    IN_THE_PLACE[name](out / "recipe.json")
    capsys.readouterr()
    assert run(arguments(teacher, tiny_data, out)) == 2
    sentence = complaint(capsys.readouterr().err)
    assert "recipe.json" in sentence and "choose another directory" in sentence


def test_a_bit_of_a_recipe(out, teacher, tiny_data, capsys):
    """Whatever it changes, the run is another or the file is damaged; nothing is trained with other settings."""
    good = (out / "recipe.json").read_bytes()
    place = good.index(b'"seed": 0') + len(b'"seed": ')
    flip(out / "recipe.json", 8 * place)
    capsys.readouterr()
    assert run(arguments(teacher, tiny_data, out)) == 2
    assert "recipe.seed is 1, not 0" in complaint(capsys.readouterr().err)
    assert json.loads((out / "recipe.json").read_text())["recipe"]["seed"] == 1
