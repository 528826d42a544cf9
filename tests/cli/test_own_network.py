"""The how-to of one's own network: its file and its commands are run, from `inspect` to `export`."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from d2o import backbones
from d2o.cli.main import run

PAGE = (Path(__file__).parents[2] / "docs/how-to/own-network.md").read_text()
(PROGRAM,) = re.findall(r"^```py\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
(COMMANDS,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
FASTER = {
    "sample": ["--seeds", "0-3"],
    "finetune": ["--images=16", "--batch=8", "--set=discriminator.weights=random", "--set=discriminator.width=16"],
    "evaluate": ["--images", "8", "--features", "pixels"],
}
THEIRS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv_in, self.conv_out = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        self.time, self.label = nn.Embedding(1000, width), nn.Embedding(10, width)

    def forward(self, x, t, label):
        h = self.conv_in(x) + (self.time(t) + self.label(label))[:, :, None, None]
        return self.conv_out(h.relu())


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.save(Net(16).state_dict(), "their_weights.pt")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with someone's network and weights, the file of the how-to, and its teacher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "their_model.py").write_text(THEIRS)
    (tmp_path / "mine.py").write_text(PROGRAM)
    for file in ("their_model.py", "mine.py"):
        subprocess.run([sys.executable, file], check=True)
    yield tmp_path
    backbones.BACKBONES.pop("theirs", None)


def test_the_how_to_works_from_inspect_to_export(folder, capsys):
    pytest.importorskip("onnxruntime")
    lines = [line for line in COMMANDS.splitlines() if line.startswith("d2o ")]
    for line in lines:
        words = shlex.split(line)[1:]
        name = next(word for word in words if word in ("inspect", "export") or word in FASTER)
        assert run([*words, *FASTER.get(name, [])]) == 0, f"{line}\n{capsys.readouterr().err}"
    assert {"teacher.png", "one-step.png", "one-step.onnx"} <= {file.name for file in folder.iterdir()}


def test_without_the_import_its_kind_is_unknown(folder, capsys):
    assert run(["inspect", "teacher.safetensors"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "theirs" in sentence


def test_its_file_has_twenty_lines_of_code():
    code = [line for line in PROGRAM.splitlines() if line.strip()]
    assert len(code) <= 24
