"""The how-to of one's own network: its file and its commands are run, from `inspect` to `export`.

The network is built as tutorials build theirs: batch norms, tensors that no state dict has, indices, shared weights.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import d2o
from d2o import backbones
from d2o.cli.main import run
from d2o.diffusion.noise import noise_for
from d2o.export import runtime

PAGE = (Path(__file__).parents[2] / "docs/how-to/own-network.md").read_text()
(PROGRAM,) = re.findall(r"^```py\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
(COMMANDS,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
FASTER = {
    "sample": ["--seeds", "0-3"],
    "finetune": ["--images=16", "--batch=8", "--set=discriminator.weights=random", "--set=discriminator.width=16"],
    "evaluate": ["--images", "8", "--features", "pixels"],
    "analyze": ["--seeds", "0-3", "--steps", "4"],
}
THEIRS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv_in, self.conv_out = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        self.conv_middle = self.conv_again = nn.Conv2d(width, width, 3, padding=1)
        self.norm, self.drop = nn.BatchNorm2d(width), nn.Dropout(0.5)
        self.time, self.label = nn.Embedding(500, width), nn.Embedding(10, width)
        self.register_buffer("places", torch.arange(500).flip(0))
        self.register_buffer("gains", torch.linspace(0.5, 1, width), persistent=False)
        self.shift = torch.full((width,), 0.1)

    def forward(self, x, t, label):
        h = self.conv_in(x) + (self.time(self.places[t // 2]) + self.label(label) + self.shift)[:, :, None, None]
        h = self.norm(self.conv_middle(h.relu())).relu() * self.gains[:, None, None]
        return self.conv_out(self.drop(self.conv_again(h)))


if __name__ == "__main__":
    torch.manual_seed(0)
    net = Net(16)
    net(torch.randn(64, 1, 8, 8), torch.arange(64), torch.arange(64) % 10)  # the statistics of the batch norm
    torch.save(net.state_dict(), "their_weights.pt")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with someone's network and weights, the how-to's file and teacher, and what pages run on."""
    place = tmp_path_factory.mktemp("own")
    for file, text in (("their_model.py", THEIRS), ("mine.py", PROGRAM)):
        (place / file).write_text(text)
        subprocess.run([sys.executable, file], check=True, cwd=place)
    package = place / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": "1.2.3"}))
    for name in runtime.FILES:
        (package / "dist" / name).touch()
    return place


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    place = shutil.copytree(made, tmp_path / "own")
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv(runtime.VARIABLE, str(place / "onnxruntime-web"))
    yield place
    backbones.BACKBONES.pop("theirs", None)
    sys.modules.pop("their_model", None)


def test_the_how_to_works_from_inspect_to_export(folder, capsys):
    pytest.importorskip("onnxruntime")
    lines = [line for line in COMMANDS.splitlines() if line.startswith("d2o ")]
    for line in lines:
        words = shlex.split(line)[1:]
        name = next(word for word in words if word in ("inspect", "export") or word in FASTER)
        assert run([*words, *FASTER.get(name, [])]) == 0, f"{line}\n{capsys.readouterr().err}"
    assert {"teacher.png", "one-step.png", "one-step.onnx", "page"} <= {file.name for file in folder.iterdir()}
    assert "net.conv_middle" in (folder / "why" / "blocks.html").read_text()

    loaded: list[Any] = [d2o.load(name).backbone for name in ("teacher.safetensors", "runs/one-step")]
    teacher, student = (backbone.net for backbone in loaded)
    theirs = type(teacher)(16)
    theirs.load_state_dict(torch.load("their_weights.pt", weights_only=True))
    given = noise_for(range(4), (1, 8, 8)), torch.tensor([0, 3, 500, 999]), torch.arange(4)
    assert torch.equal(teacher(*given), theirs.eval()(*given)), "also what no state dict has"
    assert student.conv_again is student.conv_middle, "shared weights are still one"
    for name in ("norm.running_mean", "norm.num_batches_tracked", "conv_middle.weight"):
        assert torch.equal(student.state_dict()[name], theirs.state_dict()[name]), name
    assert not torch.equal(student.norm.weight, theirs.norm.weight)


def test_without_the_import_its_kind_is_unknown(folder, capsys):
    assert run(["inspect", "teacher.safetensors"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "theirs" in sentence


FORWARD = "return self.net(x, noise.long(), label)"
MISTAKES = {
    "a tuple": (f"{FORWARD}, None", "sample", ("Theirs", "tuple", "forward")),
    "variances": ("y = self.net(x, noise.long(), label); return torch.cat([y, y], 1)", "sample", ("[1, 2, 8, 8]",)),
    "times": ("return self.net(x, noise, label)", "sample", ("their_model.py", "line", "D2O_TRACEBACK")),
    "a name": ("return self.nett(x, noise.long(), label)", "sample", ("mine.py", "nett")),
    "a branch": (
        f"if noise[0] > 0: x = -x\n        {FORWARD}",
        "export --to torch",
        ("Theirs", "branch", "--to safet"),
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("forward", "command", "names"), MISTAKES.values(), ids=MISTAKES)
def test_what_its_forward_does_wrong_is_one_sentence(folder, capsys, forward, command, names):
    (folder / "mine.py").write_text(PROGRAM.replace(FORWARD, forward))
    output = "x.pt2" if command.startswith("export") else "--seeds=0 --out=x.png"
    name, *options = command.split()
    assert run(["--import", "mine.py", name, "teacher.safetensors", *options, *output.split()]) == 2
    *_, sentence = capsys.readouterr().err.splitlines()
    assert sentence.startswith("d2o: ") and all(name in sentence for name in names)
    assert not list(folder.glob("x.*"))


def test_its_weights_alone_are_refused_with_the_way_in(folder, capsys):
    assert run(["inspect", "their_weights.pt"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "conv_in" in sentence and "--import" in sentence and "own-network.md" in sentence


def test_its_file_has_twenty_lines_of_code():
    code = [line for line in PROGRAM.splitlines() if line.strip()]
    assert len(code) <= 24
