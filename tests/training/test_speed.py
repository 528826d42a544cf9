"""Choices for the machine at hand keep the run what it is."""

import json

import pytest
import torch

from d2o.training import speed
from d2o.training.networks import networks
from d2o.training.speed import compile_student, fastest_precision, try_compiled

from .tiny import ADVERSARIAL

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("seconds", "chosen"), [((2.0, 1.0), "bfloat16"), ((1.0, 1.0), "float32"), ((1.0, 9), "float32")]
)
def test_the_faster_precision_is_chosen_if_it_is_clearly_faster(tiny_denoiser, tmp_path, monkeypatch, seconds, chosen):
    taken = dict(zip(("float32", "bfloat16"), seconds, strict=True))
    monkeypatch.setattr(speed, "step_seconds", lambda _, precision, __: taken[precision])
    assert fastest_precision(tiny_denoiser(), tmp_path, CPU) == chosen


def test_a_run_that_is_there_keeps_its_precision(tiny_denoiser, tmp_path, monkeypatch):
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": {"precision": "bfloat16"}}))
    monkeypatch.setattr(speed, "step_seconds", None)
    assert fastest_precision(tiny_denoiser(), tmp_path, CPU) == "bfloat16"


@pytest.mark.parametrize(("slower", "told"), [(1.0, False), (17.0, True)])
def test_emulated_bfloat16_is_told(monkeypatch, slower, told):
    seconds = {torch.float32: 1.0, torch.bfloat16: slower}
    monkeypatch.setattr(speed, "convolution_seconds", seconds.__getitem__)
    assert ("--precision float32" in (speed.emulation("bfloat16", CPU) or "")) == told
    assert speed.emulation("float32", CPU) is None


def test_measuring_leaves_the_denoiser_alone(tiny_denoiser):
    denoiser = tiny_denoiser(classes=2)
    before = denoiser.precision
    assert speed.step_seconds(denoiser, "bfloat16", CPU, 2) > 0
    assert denoiser.precision == before
    assert all(p.grad is None for p in denoiser.parameters())


def test_without_a_compiler_one_line_says_so(tiny_denoiser, monkeypatch):
    monkeypatch.setattr(speed.shutil, "which", lambda _: None)
    made = networks(ADVERSARIAL, tiny_denoiser())
    said = compile_student(made)
    assert said is not None
    assert "compiler" in said
    assert made.student.backbone._compiled_call_impl is None


def test_compiling_keeps_the_names_of_the_weights(tiny_denoiser, monkeypatch):
    monkeypatch.setattr(speed.shutil, "which", lambda _: "/usr/bin/c++")
    made = networks(ADVERSARIAL, tiny_denoiser())
    names = list(made.student.state_dict())
    assert compile_student(made) is None
    assert list(made.student.state_dict()) == names
    assert made.student.backbone._compiled_call_impl is not None


def test_where_compiling_fails_the_network_runs_as_it_is(tiny_denoiser):
    def broken(*_):
        raise RuntimeError("CppCompileError:\n  no Python.h")

    denoiser = tiny_denoiser(classes=2)
    expected = denoiser(torch.ones(1, 1, 8, 8), 1.0, torch.zeros(1, dtype=torch.long))
    denoiser.backbone.compile(backend=broken)
    said = try_compiled(denoiser, 2)
    assert said is not None
    assert "no Python.h" in said and "\n" not in said
    assert torch.equal(denoiser(torch.ones(1, 1, 8, 8), 1.0, torch.zeros(1, dtype=torch.long)), expected)


def test_a_trial_leaves_no_gradients(tiny_denoiser):
    denoiser = tiny_denoiser()
    denoiser.backbone.compile(backend="eager")
    assert try_compiled(denoiser, 2) is None
    assert denoiser.backbone._compiled_call_impl is not None
    assert all(p.grad is None for p in denoiser.parameters())
