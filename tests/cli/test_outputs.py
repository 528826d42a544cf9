"""Whoever works long before writing finds out first whether the output can be written to."""

from importlib import import_module
from pathlib import Path

import pytest

import d2o
from conftest import make_denoiser
from d2o.cli.main import run

COMMANDS = {  # the command, how the name of its output ends, and what may not begin
    "pretrain --data DATA --out": ("", "d2o.cli.commands.pretrain:pretrain"),
    "finetune --from MODEL --data DATA --out": ("", "d2o:load"),
    "sample MODEL --out": (".png", "d2o.cli.commands.sample:generate"),
    "sample MODEL --seeds 0 --out": ("", "d2o.cli.commands.sample:generate"),
    "convert MODEL": (".safetensors", "d2o.cli.commands.convert:load"),
    "export MODEL --to torch": (".pt2", "d2o.export:deepcopy"),
    "export MODEL --to web": ("", "d2o.export:deepcopy"),
    "demo --out": ("", "d2o.demo.story:open_images"),
    "analyze spectrum MODEL --out": ("", "d2o.analysis.spectrum:spectrum"),
    "analyze blocks MODEL --out": ("", "d2o.analysis.blocks:blocks"),
}


@pytest.fixture
def complaint(tmp_path, tiny_data, monkeypatch, capsys):
    """Return a function that runs a command which is to fail at once, and returns the one sentence it says."""
    d2o.save(tmp_path / "model.safetensors", make_denoiser(classes=2))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def said(command: str, out: str) -> str:
        module, work = COMMANDS[command][1].split(":")
        monkeypatch.setattr(import_module(module), work, lambda *_, **__: pytest.fail("worked"))
        places = {"MODEL": str(tmp_path / "model.safetensors"), "DATA": str(tiny_data)}
        words = [places.get(word, word) for word in command.split()]
        assert run([*words, out]) == 2
        assert not list(Path().iterdir()), "nothing is left behind"
        (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("d2o: ")]
        return sentence

    return said


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder where not even root can write")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written_to_is_told_before_the_work(command, complaint):
    sentence = complaint(command, f"/proc/new{COMMANDS[command][0]}")
    assert "/proc" in sentence and "cannot be" in sentence and "choose another directory" in sentence


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_name_is_refused(command, complaint):
    sentence = complaint(command, "")
    assert "is empty: name a" in sentence or "must end in" in sentence or "is a directory: name a file" in sentence
