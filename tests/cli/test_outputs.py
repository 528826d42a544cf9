"""Whoever works long before writing finds out first whether the output can be written to."""

from importlib import import_module
from pathlib import Path

import pytest

import d2o
from conftest import make_denoiser
from d2o.cli.main import run
from d2o.export.runtime import FILES

COMMANDS = {  # the command, how the name of its output ends, and what may not begin
    "pretrain --data DATA --out": ("", "d2o.cli.commands.pretrain:pretrain"),
    "finetune --from MODEL --data DATA --out": ("", "d2o:load"),
    "sample MODEL --out": (".png", "d2o:load"),
    "sample MODEL --seeds 0 --out": ("", "d2o.cli.commands.sample:generate"),
    "convert MODEL": (".safetensors", "d2o.cli.commands.convert:load"),
    "export MODEL --to torch": (".pt2", "d2o.cli.commands.export:load"),
    "export MODEL --to safetensors": (".safetensors", "d2o.cli.commands.export:load"),
    "export MODEL --to web": ("", "d2o.cli.commands.export:load"),
    "demo --out": ("", "d2o.demo.digits:open_images"),
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


def test_a_name_with_a_slash_at_its_end_is_no_files(complaint):
    for command in ("export MODEL --to torch", "export MODEL --to safetensors"):
        sentence = complaint(command, "new.v2/")
        assert "new.v2/ is a directory" in sentence and "file" in sentence


SAMPLE, EXPORT = "sample MODEL --seeds 0-1 --out", "export MODEL --to web --runtime RUNTIME"


@pytest.mark.parametrize(
    ("command", "name"),
    [(SAMPLE, name) for name in ("results.v2", "run1.5/", "faces.jpg/", "new/", "plain")]
    + [(EXPORT, name) for name in ("results.v2", "faces.jpg/")],
)
def test_folders_with_dots_in_their_names_are_folders(command, name, tmp_path, monkeypatch):
    if "web" in command:
        pytest.importorskip("onnxscript")
    d2o.save(tmp_path / "model.safetensors", make_denoiser(classes=2))
    package = tmp_path / "package"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text('{"name": "onnxruntime-web", "version": "1"}')
    for file in FILES:
        (package / "dist" / file).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    Path("results.v2").mkdir()
    places = {"MODEL": "model.safetensors", "RUNTIME": "package"}
    assert run([*(str(places.get(word, word)) for word in command.split()), name]) == 0
    made = {path.name for path in Path(name).iterdir()}
    assert ("index.html" in made) if "web" in command else {"000000.png", "000001.png", "dataset.json"} == made


@pytest.mark.parametrize("name", ["faces.jpg", "run1.5"])
def test_a_suffix_that_no_images_have_is_refused_with_what_would_do(name, complaint):
    sentence = complaint("sample MODEL --out", name)
    assert name in sentence and ".png" in sentence and "/" in sentence


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_name_is_refused(command, complaint):
    sentence = complaint(command, "")
    assert "is empty: name a" in sentence or "must end in" in sentence or "is a directory: name a file" in sentence
