"""What a model's file does not say, in every command: `--family`, `--config`, `--start`, `--clip`."""

import json

import pytest
import torch

import d2o
from conftest import make_denoiser
from d2o.backbones.dit import DiT
from d2o.cli.main import run
from d2o.diffusion.families import Epsilon
from d2o.diffusion.noise import PURE_NOISE


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Return a model whose noise is predicted badly: its images of one call are noise from 80."""
    file = tmp_path_factory.mktemp("model") / "teacher.safetensors"
    denoiser = make_denoiser(classes=2).replace(preconditioning=Epsilon())
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.mul_(1.5)
    d2o.save(file, denoiser)
    return str(file)


def start_of(capsys, model):
    capsys.readouterr()
    assert run(["inspect", model, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_student_keeps_its_start(teacher, tiny_data, tmp_path, capsys):
    found = start_of(capsys, teacher)
    assert (found["family"], found["start"], found["clip"]) == ("epsilon", 80.0, None)
    command = ["finetune", "--from", teacher, "--data", str(tiny_data), "--recipe", "digits-d2o", "--images", "16"]
    command += ["--batch", "8", "--set", "discriminator.weights=random"]
    assert run([*command, "--start", "5", "--out", str(tmp_path / "five")]) == 0
    assert start_of(capsys, str(tmp_path / "five"))["start"] == 5
    assert run([*command, "--start", "auto", "--out", str(tmp_path / "auto")]) == 0
    told = capsys.readouterr().err
    chosen = start_of(capsys, str(tmp_path / "auto"))["start"]
    assert 1 <= chosen < 80 and f"{chosen:.3g}" in told
    assert run([*command, "--start", "6", "--out", str(tmp_path / "five")]) == 2, "another start is another run"


def test_sample_evaluate_and_export_take_a_start(teacher, tmp_path, capsys):
    picture, other, plain = (str(tmp_path / name) for name in ("a.npz", "b.npz", "c.safetensors"))
    assert run(["sample", teacher, "--seeds", "0-3", "--out", picture]) == 0
    assert run(["sample", teacher, "--seeds", "0-3", "--start", "auto", "--out", other]) == 0
    assert (tmp_path / "a.npz").read_bytes() != (tmp_path / "b.npz").read_bytes()
    assert run(["evaluate", teacher, "digits", "--features", "pixels", "--images", "20", "--start", "auto"]) == 0
    assert run(["export", teacher, "--to", "safetensors", plain, "--start", "3", "--clip", "1"]) == 0
    assert d2o.load(plain).sigma_max == 3 and d2o.load(plain).clip == 1


@pytest.mark.parametrize("wrong", [("--start", "soon"), ("--start", "-1"), ("--start", "inf"), ("--clip", "0")])
def test_what_is_no_level_is_refused(wrong, teacher, tmp_path, capsys):
    assert run(["sample", teacher, "--seeds", "0", "--out", str(tmp_path / "a.png"), *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err and not (tmp_path / "a.png").exists()


def test_data_have_no_start(tmp_path, capsys):
    assert run(["evaluate", "digits", "digits", "--images", "20", "--start", "5"]) == 2
    assert "--start" in capsys.readouterr().err


def test_a_family_is_told_wherever_a_model_is_opened(tiny_data, tmp_path, capsys):
    weights = str(tmp_path / "weights.pt")
    torch.save(DiT(8, 1, 2, 2, channels=384, num_blocks=1, num_heads=6).state_dict(), weights)
    sample = ["sample", weights, "--seeds", "0-1", "--steps", "2", "--out"]
    assert run([*sample, str(tmp_path / "a.npz")]) == 2
    assert "--family" in capsys.readouterr().err
    for family in ("sit", "epsilon"):
        assert run([*sample, str(tmp_path / f"{family}.npz"), "--family", family]) == 0
    assert (tmp_path / "sit.npz").read_bytes() != (tmp_path / "epsilon.npz").read_bytes()
    told = ["--family", "sit"]
    assert run(["evaluate", weights, "digits", "--features", "pixels", "--images", "8", *told]) == 0
    command = ["finetune", "--from", weights, "--data", str(tiny_data), "--recipe", "digits-d2o", "--images", "8"]
    command += ["--batch", "4", "--set", "discriminator.weights=random", "--out", str(tmp_path / "run")]
    assert run([*command, *told]) == 0
    found = start_of(capsys, str(tmp_path / "run"))
    assert (found["family"], found["start"]) == ("flow", PURE_NOISE)
    assert run(["export", weights, "--to", "safetensors", str(tmp_path / "plain.safetensors"), *told]) == 0
