"""The examples run as they stand, and do what they say."""

import contextlib
import io
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import d2o
from d2o.cli import main

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> str:
    """Run an example where it lies, in this process, which has imported what it needs, and return what it prints."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.chdir(EXAMPLES)
        patch.syspath_prepend(EXAMPLES)
        patch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(name, run_name="__main__")
    return said.getvalue()


def test_examples_are_short() -> None:
    assert {path.name: n for path in EXAMPLES.glob("*.py") if (n := len(path.read_text().splitlines())) > 40} == {}


def test_own_backbone_learns_the_covariance() -> None:
    found = [float(number) for number in re.findall(r"-?\d+\.\d{4,}", run("own_backbone.py"))]
    assert found == pytest.approx([0.25, 0.15, 0.15, 0.13], abs=0.04)


def test_own_discriminator_trains() -> None:
    assert run("own_discriminator.py").count("'discriminator'") == 20


def test_own_objective_trains_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    recipe = ["--recipe", "relativistic", "--from", "digits-teacher", "--data", "digits", "--images", "128"]
    assert main.run(["finetune", "--import", "own_objective.py", *recipe, "--out", str(tmp_path / "run")]) == 0
    student = d2o.load(tmp_path / "run")
    assert student.one_step and student.sigma_max == 10


def test_toy_mixture_student_beats_its_teacher_in_one_call() -> None:
    truth, teacher, untuned, student = (float(share) for share in re.findall(r"([\d.]+)%", run("toy_mixture.py")))
    assert truth > 95
    assert teacher > 60
    assert untuned < 20
    assert student > 60


def test_one_step_on_own_folder(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(40):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    out = tmp_path / "one_step.safetensors"
    run("one_step_on_own_folder.py", str(folder), str(out), "64")
    assert out.exists()


def test_the_first_hour_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    """Its cells in order, with fewer images; the notebook is stored without what they showed."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made: dict = {"few": d2o.images("digits").split(200)[0]}
    fewer = {"duration=1920": "duration=64", '"digits", images=200': "few, images=32"}
    for cell in json.loads((EXAMPLES / "first_hour.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            text = "".join(cell["source"])
            for whole, part in fewer.items():
                text = text.replace(whole, part)
            exec(compile(text, "first_hour.ipynb", "exec"), made)
    assert made["result"].images == 64 and made["begun"].shape == (40, 1, 8, 8)
    (share,) = re.findall(r"^(\d+)% of", said := capsys.readouterr().out, re.MULTILINE)
    assert 50 < int(share) < 100  # D2O-F's
    one_call, _, finished, _ = (float(number) for number in re.findall(r"KID (-?[\d.]+)$", said, re.MULTILINE))
    assert finished < one_call
