"""Text-to-image students in the stock pipelines of diffusers: one step there is D(pure noise), for every class."""

import json
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import needs

diffusers: Any = needs.package("diffusers")
needs.package("transformers")

import d2o  # noqa: E402
from checkpoints.text_pipelines import CASES, SIDE, make_noise, make_text, network_of, open_stock, run_stock, save  # noqa: E402
from d2o.cli.main import run  # noqa: E402
from d2o.diffusion.denoiser import Denoiser  # noqa: E402
from d2o.diffusion.families import start_at  # noqa: E402
from d2o.export import export  # noqa: E402
from d2o.export.one_step import compare, sample_one_step  # noqa: E402
from refusal import refused  # noqa: E402

from .cards import program_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
FLOWS = {"SD3", "Flux", "Sana", "Qwen-Image"}
"""Those whose times in one step are stock's to the bit; Z-Image is told 2^-29 where stock tells it 0."""


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Return the folder and the model of a pipeline by name, made at its first use."""
    made: dict[str, tuple[Path, Denoiser]] = {}

    def get(name: str) -> tuple[Path, Denoiser]:
        if name not in made:
            folder = tmp_path_factory.mktemp("teacher")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                save(name, folder)
            made[name] = folder, d2o.load(folder, config={"sample_size": SIDE})
        return made[name]

    return get


def fine_tuned(teacher: Denoiser) -> Denoiser:
    """Return a student, which differs from its teacher."""
    student = deepcopy(teacher)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in list(student.parameters())[::3]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    return student.replace(one_step=True, provenance={"recipe": {}, "from": teacher.provenance})


@pytest.mark.parametrize("name", CASES)
def test_one_step_of_the_stock_pipeline_is_the_student(name, teachers, tmp_path):
    student = fine_tuned(teachers(name)[1])
    made = export(student, tmp_path / "out", "diffusers")
    noise, text = make_noise(name), make_text(name, 1)
    with torch.no_grad():
        ours = sample_one_step(student, noise, text)
    theirs = run_stock(name, open_stock(name, made.path), noise, text, 1)
    most = 0.0 if name in FLOWS else CASES[name].error[0]
    assert (ours - theirs).abs().max() <= most and made.error <= most
    assert ours.std() > 0.1
    index = json.loads((made.path / "model_index.json").read_text())
    assert index["_class_name"] == type(CASES[name].make()).__name__
    if student.preconditioning.kind == "flow":  # of other folders, d2o starts from sigma times noise, as it reads them
        again = d2o.load(made.path)
        assert compare(student, lambda noise, text: sample_one_step(again, noise, text)) <= most


@pytest.mark.parametrize("name", ["SD3", "Qwen-Image", "SDXL"])
def test_a_base_takes_the_network_as_the_card_says(name, teachers, tmp_path):
    base, teacher = teachers(name)
    student = fine_tuned(teacher)
    made = export(student, tmp_path / "out", "diffusers")
    program = program_of(made.card.read_text())
    assert "d2o.diffusion.Text" not in made.card.read_text()
    found: dict[str, Any] = {"base": base, "missing": open_missing(base)}
    program = program.replace("'out'", repr(str(made.path))).replace(
        "'the pipeline that it was fine-tuned from'", "base"
    )
    loads, _, call = program.partition("images = ")
    exec(compile(loads.replace("scheduler=scheduler", "scheduler=scheduler, **missing"), "card", "exec"), found)
    pipeline = found["pipeline"]
    pipeline.set_progress_bar_config(disable=True)
    noise, text = make_noise(name), make_text(name, 1)
    assert torch.equal(network_of(pipeline).state_dict()[first := next(iter(network_of(pipeline).state_dict()))],
                       network_of(open_stock(name, made.path)).state_dict()[first])  # fmt: skip
    assert "num_inference_steps=1" in call and ("true_cfg_scale=1.0" in call) == (name == "Qwen-Image")
    with torch.no_grad():
        ours = sample_one_step(student, noise, text)
    most = 0.0 if name in FLOWS else CASES[name].error[0]
    assert (ours - run_stock(name, pipeline, noise, text, 1)).abs().max() <= most


def open_missing(folder: Path) -> dict[str, None]:
    index = json.loads((folder / "model_index.json").read_text())
    return {part: None for part, row in index.items() if isinstance(row, list) and row[0] is None}


@pytest.mark.parametrize("name", ["SD 1.5", "Flux", "Z-Image"])
def test_a_delta_has_what_moved(name, teachers, tmp_path):
    teacher = teachers(name)[1]
    student = fine_tuned(teacher)
    made = export(student, tmp_path / "x.safetensors", "delta", base=teacher)
    again = d2o.load(made.path, base=teacher)
    assert "d2o.diffusion.Text" in made.card.read_text()
    assert made.error == 0 and all(torch.equal(t, again.state_dict()[key]) for key, t in student.state_dict().items())


def test_what_has_no_stock_pipeline_is_refused(teachers, tmp_path, capsys):
    student = fine_tuned(teachers("SD3")[1])
    for to in ("onnx", "torch", "web"):
        with refused("captions", "--to safetensors"):
            export(student, tmp_path / "out", to)
    later = student.replace(preconditioning=start_at(student.preconditioning, 20.0))
    with refused("pure noise", "--to safetensors"):
        export(later, tmp_path / "out", "diffusers")
    d2o.save(tmp_path / "student.safetensors", student)
    assert run(["export", str(tmp_path / "student.safetensors"), "--to", "diffusers", str(tmp_path / "out")]) == 0
    assert "StableDiffusion3Pipeline" in capsys.readouterr().out
