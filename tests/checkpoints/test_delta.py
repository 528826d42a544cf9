"""Files of what has moved: small, exact upon their own base, and refused upon any other."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import d2o
from d2o.checkpoints import CheckpointError, native
from d2o.cli.main import run
from d2o.objectives import Trajectory
from d2o.training.freezing import freeze


@pytest.fixture
def pair(tiny_denoiser, tmp_path):
    """Return a teacher, a student of which only the norms moved, and the paths of both files."""
    teacher, student = tiny_denoiser(), tiny_denoiser()
    freeze(student, ("all-but:norm",))
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    d2o.save(tmp_path / "teacher.safetensors", teacher)
    d2o.save(tmp_path / "delta.safetensors", student, base=teacher)
    return teacher, student, tmp_path


def test_it_holds_what_moved_and_nothing_else(pair):
    _, student, folder = pair
    moving = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert load_file(folder / "delta.safetensors").keys() == moving
    whole = (folder / "teacher.safetensors").stat().st_size
    assert (folder / "delta.safetensors").stat().st_size < whole / 5


@pytest.mark.parametrize("as_path", [True, False])
def test_upon_its_base_it_is_the_student_bit_for_bit(pair, as_path):
    teacher, student, folder = pair
    again = d2o.load(folder / "delta.safetensors", base=folder / "teacher.safetensors" if as_path else teacher)
    state = student.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    with torch.no_grad():  # the base is not shared with the student
        next(again.parameters()).add_(1)
    assert not torch.equal(next(again.parameters()), next(teacher.parameters()))


def test_mistakes_are_named(pair, tiny_denoiser):
    teacher, _, folder = pair
    delta = folder / "delta.safetensors"
    with pytest.raises(CheckpointError, match="--base"):
        d2o.load(delta)
    with pytest.raises(CheckpointError, match="the model that it started from"):
        d2o.load(delta, base=tiny_denoiser(seed=1))
    with pytest.raises(CheckpointError, match=r"teacher\.safetensors.*base"):
        d2o.load(folder / "teacher.safetensors", base=teacher)
    spec = native.read_header(delta)
    save_file(load_file(delta), delta, {native.SPEC: json.dumps({**spec, "base": 3})})
    with pytest.raises(CheckpointError, match=r"delta\.safetensors"):
        d2o.load(delta, base=teacher)
    save_file({"foreign": torch.ones(2)}, delta, {native.SPEC: json.dumps(spec)})
    with pytest.raises(CheckpointError, match="foreign"):
        d2o.load(delta, base=teacher)


def test_a_student_that_grew_keeps_what_its_base_has_not(tiny_denoiser, tmp_path):
    teacher = tiny_denoiser()
    student = d2o.networks(replace(d2o.recipes.D2O, objectives=(Trajectory(),)), teacher).student
    d2o.save(tmp_path / "delta.safetensors", student, base=teacher)
    with safe_open(tmp_path / "delta.safetensors", "pt") as file:
        assert list(file.keys()) == ["backbone.map_augment.weight"]
    assert d2o.load(tmp_path / "delta.safetensors", base=teacher).state_dict().keys() == student.state_dict().keys()


def test_inspecting_needs_no_base(pair):
    _, _, folder = pair
    found = d2o.checkpoints.inspect(folder / "delta.safetensors")
    assert "difference" in found.kind and "moved" not in d2o.checkpoints.inspect(folder / "teacher.safetensors").kind
    assert found.parameters == sum(p.numel() for p in pair[0].parameters())


def test_from_the_command_line(pair, capsys):
    _, student, folder = pair
    d2o.save(folder / "student.safetensors", student)
    names = {name: str(folder / f"{name}.safetensors") for name in ("student", "teacher", "out", "whole")}
    assert run(["export", names["student"], "--to", "delta", "--base", names["teacher"], names["out"]]) == 0
    printed = capsys.readouterr().out
    assert "tensors differ" in printed and "0.0e+00" in printed
    sample = ["sample", names["out"], "--seeds", "0-1", "--out", str(folder / "a.npz")]
    assert run(sample) == 2 and "--base" in capsys.readouterr().err
    assert run([*sample, "--base", names["teacher"]]) == 0
    assert run(["convert", names["out"], names["whole"], "--base", names["teacher"]]) == 0
    whole, state = load_file(names["whole"]), student.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.items())
    capsys.readouterr()
    assert run(["export", names["student"], "--to", "delta", names["out"]]) == 2
    assert "needs the base" in capsys.readouterr().err
