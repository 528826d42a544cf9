"""Every input of a command is found, or refused, before there is work on another."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import d2o
from conftest import make_denoiser
from d2o.cli.main import run

LOAD, OPEN = "d2o.checkpoints.loading:read", "d2o.data.datasets:make_decoder"
"""What begins the work on a model, and on a data set."""
COMMANDS = [
    "evaluate absent DATA",
    "evaluate DATA absent",
    "evaluate absent MODEL",
    "evaluate hf://absent/absent/absent DATA",
    "evaluate MODEL DATA --base absent",
    "evaluate MODEL DATA --codec absent",
    "evaluate MODEL DATA --weights absent",
    "evaluate MODEL DATA --features absent",
    "statistics DATA out.npz --weights absent",
    "statistics DATA out.npz --features absent",
    "sample MODEL --base absent --out out.png",
    "sample MODEL --codec absent --out out.png",
    "export MODEL --to delta --base absent out.safetensors",
    "export MODEL --to diffusers --codec absent out",
    "export MODEL --to web --runtime absent out",
    "convert MODEL --base absent out.safetensors",
    "finetune --from absent --data DATA --out out",
    "finetune --from MODEL --data absent --out out",
    "finetune --from MODEL --data DATA --base absent --out out",
    "finetune --from MODEL --data DATA --codec absent --out out",
    "finetune --from MODEL --data DATA --evaluate-every 9 --features absent --out out",
    "pretrain --data DATA --evaluate-every 9 --features absent --out out",
    "analyze spectrum absent --student MODEL --data DATA --out out",
    "analyze spectrum MODEL --student absent --data DATA --out out",
    "analyze spectrum MODEL --student MODEL --data absent --out out",
    "analyze blocks absent --after MODEL --out out",
    "analyze blocks MODEL --after absent --out out",
    "analyze minima absent MODEL --data DATA --out out",
    "analyze minima MODEL MODEL absent --data DATA --out out",
    "analyze minima MODEL MODEL --data absent --out out",
    "analyze minima MODEL MODEL --data DATA --weights absent --out out",
    "app MODEL absent",
    "app MODEL --teacher absent",
]


@pytest.fixture
def places(tmp_path, tiny_data, monkeypatch):
    d2o.save(tmp_path / "model.safetensors", make_denoiser(classes=2))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return {"MODEL": str(tmp_path / "model.safetensors"), "DATA": str(tiny_data)}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_not_there_is_told_before_any_work(command, places, monkeypatch, capsys):
    for work in (LOAD, OPEN):
        module, name = work.split(":")
        monkeypatch.setattr(import_module(module), name, lambda *_, **__: pytest.fail("worked"))
    assert run([places.get(word, word) for word in command.split()]) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("d2o: ")]
    assert "absent" in sentence
    assert not list(Path().iterdir()), "nothing is left behind"


@pytest.mark.parametrize("names", [("digits-small", "digits"), ("digits", "digits-small")])
def test_names_of_models_that_come_with_d2o_can_be_evaluated(names):
    assert run(["evaluate", *names, "--images", "8", "--features", "pixels"]) == 0


def test_a_reference_named_as_data_and_a_model_is_the_data(capsys):
    assert run(["evaluate", "emoji", "emoji", "--images", "8", "--features", "pixels", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["distances"]["reference_images"] == 1_848 and found["pairs"] is None


def test_python_finds_both_before_any_work(places, monkeypatch):
    monkeypatch.setattr("d2o.checkpoints.loading.read", lambda *_: pytest.fail("worked"))
    with pytest.raises(ValueError, match="absent"):
        d2o.evaluate("absent", places["MODEL"])


def test_an_unfinished_run_is_told_as_one(tmp_path, tiny_data, capsys):
    from shutil import copytree

    fixtures = Path(__file__).parents[1] / "fixtures" / "0.1.0"
    copytree(fixtures / "d2o-f", tmp_path / "run")
    words = ["evaluate", str(tmp_path / "run"), str(tiny_data), "--images", "8", "--features", "pixels"]
    assert run(words) == 0
    assert "unfinished" in (told := capsys.readouterr().err) and "32 images" in told
    finished = ["evaluate", str(fixtures / "teacher"), *words[2:]]
    assert run(finished) == 0 and "unfinished" not in capsys.readouterr().err


def test_a_data_set_whose_labels_are_in_the_way_can_be_evaluated_without_them(tmp_path, tiny_data):
    """The remedy that its error names is an option of this command, too."""
    np.savez(tmp_path / "odd.npz", images=np.load(tiny_data)["images"], labels=np.full(40, -1))
    words = ["evaluate", str(tmp_path / "odd.npz"), str(tiny_data), "--images", "8", "--features", "pixels"]
    assert run(words) == 2 and run([*words, "--labels", "none"]) == 0
