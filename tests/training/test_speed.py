"""Choices for the machine at hand keep the run what it is."""

import json

import pytest
import torch

from d2o.training import speed
from d2o.training.speed import choose_precision, compile_network

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("seconds", "chosen"), [((2.0, 1.0), "bfloat16"), ((1.0, 1.0), "float32"), ((1.0, 9), "float32")]
)
def test_the_faster_precision_is_chosen_if_it_is_clearly_faster(tiny_denoiser, tmp_path, monkeypatch, seconds, chosen):
    taken = dict(zip(("float32", "bfloat16"), seconds, strict=True))
    monkeypatch.setattr(speed, "time_step", lambda _, precision, *__: taken[precision])
    assert choose_precision(tiny_denoiser(), CPU, 4, tmp_path)[0] == chosen


@pytest.mark.parametrize(
    ("an_image", "images", "measured"), [(1e-3, 32, 32), (1e-3, 500, 64), (0.5, 32, 8), (60.0, 32, 2), (60.0, 1, 1)]
)
def test_it_is_measured_on_as_many_images_as_train_at_once_if_that_is_quick(
    tiny_denoiser, monkeypatch, an_image, images, measured
):
    counts = []
    monkeypatch.setattr(speed, "time_step", lambda *given: counts.append(given[3]) or an_image * given[3])
    choose_precision(tiny_denoiser(), CPU, images)
    assert counts == [min(2, images), measured, measured]


@pytest.mark.parametrize(
    ("cpuinfo", "says"),
    [
        ("flags\t\t: fpu avx512_bf16 amx_bf16", "has avx512_bf16 and amx_bf16"),
        ("Features\t: fp asimd bf16 sve", "has bf16"),
        ("flags\t\t: fpu avx512f", "has no instructions"),
    ],
)
def test_what_the_processor_has_for_bfloat16_is_said(monkeypatch, cpuinfo, says):
    monkeypatch.setattr(speed, "read_system", lambda _: cpuinfo)
    assert says in speed.describe_instructions(CPU)
    assert speed.describe_instructions(torch.device("cuda")) == ""


def test_a_run_that_is_there_keeps_its_precision(tiny_denoiser, tmp_path, monkeypatch):
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": {"precision": "bfloat16"}}))
    monkeypatch.setattr(speed, "time_step", None)
    assert choose_precision(tiny_denoiser(), CPU, 4, tmp_path)[0] == "bfloat16"


@pytest.mark.parametrize(("slower", "warned"), [(1.0, False), (17.0, True)])
def test_emulated_bfloat16_is_named_with_the_remedy(monkeypatch, slower, warned):
    seconds = {torch.float32: 1.0, torch.bfloat16: slower}
    monkeypatch.setattr(speed, "time_convolution", seconds.__getitem__)
    assert ("--precision float32" in (speed.warn_about_emulation("bfloat16", CPU) or "")) == warned
    assert speed.warn_about_emulation("float32", CPU) is None


def test_measuring_leaves_the_denoiser_alone(tiny_denoiser):
    denoiser = tiny_denoiser(classes=2)
    before = denoiser.precision
    assert speed.time_step(denoiser, "bfloat16", CPU, 2) > 0
    assert denoiser.precision == before
    assert all(p.grad is None for p in denoiser.parameters())


def test_without_a_compiler_the_network_runs_as_it_is(tiny_denoiser, monkeypatch):
    monkeypatch.setattr(speed.shutil, "which", lambda _: None)
    denoiser = tiny_denoiser()
    assert "g++" in (compile_network(denoiser, 2) or "")
    assert denoiser.backbone._compiled_call_impl is None


class TestCompiling:
    @pytest.fixture
    def compiled_by(self, monkeypatch):
        """Return what puts a backend of one's own in the place of the compiler."""
        monkeypatch.setattr(speed.shutil, "which", lambda _: "/usr/bin/c++")
        compile = torch.nn.Module.compile
        return lambda backend: monkeypatch.setattr(
            torch.nn.Module, "compile", lambda self, **_: compile(self, backend=backend)
        )

    def test_it_keeps_the_names_of_the_weights_and_leaves_no_gradients(self, tiny_denoiser, compiled_by):
        compiled_by("eager")
        denoiser = tiny_denoiser(classes=2)
        names = list(denoiser.state_dict())
        assert compile_network(denoiser, 2) is None
        assert denoiser.backbone._compiled_call_impl is not None
        assert list(denoiser.state_dict()) == names
        assert all(p.grad is None for p in denoiser.parameters())

    def test_where_it_fails_the_network_runs_as_it_is(self, tiny_denoiser, compiled_by):
        def break_down(*_):
            raise RuntimeError("CppCompileError:\n  no Python.h")

        compiled_by(break_down)
        denoiser = tiny_denoiser(classes=2)
        expected = denoiser(torch.ones(1, 1, 8, 8), 1.0, torch.zeros(1, dtype=torch.long))
        reason = compile_network(denoiser, 2) or ""
        assert "no Python.h" in reason and "\n" not in reason
        assert torch.equal(denoiser(torch.ones(1, 1, 8, 8), 1.0, torch.zeros(1, dtype=torch.long)), expected)
