"""What commands end with, "Next: d2o ...", is pasted and works: with all that the command before was given."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import d2o
import needs
from autoencoders import save_autoencoder
from d2o import backbones
from d2o.cli import plugins
from d2o.cli.main import run
from d2o.cli.options import DataOptions, DeviceOptions, Preparation, repeat, write_command
from d2o.data.files import write_images
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import Epsilon
from emoji_packages import make_packages

TRAINED = ["--images", "8", "--batch", "4", "--sample-every", "8", "--precision", "float32"]
JUDGED = ["--set=discriminator.weights=random", "--set=discriminator.width=16", "--set=discriminator.size=32"]
SMALLER = {"pretrain": TRAINED, "finetune": [*TRAINED, *JUDGED], "sample": ["--seeds", "0-3"]}
UNET = "backbone={kind: song_unet, channels: 8, channel_multipliers: [1], num_blocks: 1, attention_resolutions: []}"
DIT = "backbone={kind: dit, patch_size: 2, channels: 16, num_blocks: 1, num_heads: 2}"
TEXT = "backbone={kind: text_transformer, channels: 8, num_blocks: 1, num_heads: 2}"
OWN = """
from d2o.backbones import BACKBONES
from d2o.backbones.song_unet import SongUNet

class Own(SongUNet):
    kind = "own"

    def role(self, name):
        return "matrix"

BACKBONES["own"] = Own
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "IMPORTED", [])
    return tmp_path


def paste(line: str, capsys: pytest.CaptureFixture[str]) -> str | None:
    """Run a command as a shell would, made small, and return what it says is next."""
    program, *words = shlex.split(line)
    command = next(word for word in words if not word.startswith("--import"))
    assert program == "d2o" and run([*words, *SMALLER.get(command, [])]) == 0, capsys.readouterr().err
    found = re.findall(r"^Next: (.*)$", capsys.readouterr().err, re.MULTILINE)
    return found[0] if found else None


def draw(folder: Path) -> None:
    """Write images of two sizes, one of them grey, one of them transparent, in folders that could be classes."""
    random = np.random.default_rng(0)
    for i, (mode, size) in enumerate([("RGB", (12, 9)), ("L", (10, 16)), ("RGBA", (9, 9)), ("RGB", (12, 9))] * 2):
        pixels = random.integers(0, 256, (size[1], size[0], len(mode)), np.uint8).squeeze()
        (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / str(i % 2) / f"{i}.png")


PREPARED = "--resolution 8 --resize center-crop --channels 1 --background '#102030'"


@pytest.mark.parametrize(
    "words",
    [
        f"--data 'my photos' {PREPARED} --labels none --set '{UNET}' --out runs/teacher/ --device cpu",
        f"--data 'my photos' {PREPARED} --classes 0=1,1=0 --set '{DIT}' --out 'a run'",
        f"--data shapes --split test --captions auto --set '{TEXT}' --out shapes-run",
        f"--data digits --set '{UNET.replace('song_unet', 'own')}' --out own",
    ],
)
def test_from_images_to_samples(words, place, capsys):
    draw(place / "my photos")
    (place / "own.py").write_text(OWN)
    imported = "--import=own.py " if "own" in words else ""
    following = paste(f"d2o {imported}pretrain {words}", capsys)
    assert following and following.startswith(f"d2o {imported}finetune")
    following = paste(following, capsys)
    assert following and following.startswith(f"d2o {imported}sample")
    assert paste(following, capsys) is None
    assert (place / "grid.png").exists()


def test_from_latents_to_samples(place, capsys):
    needs.package("diffusers")
    save_autoencoder("AutoencoderTiny", place / "vae")
    sizes = {"resolution": 8, "in_channels": 4, "out_channels": 4, "channels": 16, "num_blocks": 1, "num_heads": 2}
    d2o.save(
        "dit.safetensors",
        Denoiser(backbones.build({"kind": "dit", **sizes, "num_classes": 2}), Epsilon(), (4, 8, 8), 2),
    )
    write_images("data.zip", [np.zeros((8, 16, 16, 3), np.uint8)], labels=[0, 1] * 4)
    following = paste("d2o encode dit.safetensors --codec vae --data data.zip --out 'the latents'", capsys)
    assert following and "'the latents'" in following
    following = paste(following, capsys)
    assert following and paste(following, capsys) is None


def test_from_packages_of_emoji_to_a_model_that_reads_captions(place, capsys):
    packages = make_packages(place)
    following = paste(f"d2o emoji --packages {packages} --styles noto --out 'my emoji.zip'", capsys)
    assert following and "--recipe emoji-pretrain" in following
    following = paste(following, capsys)
    assert following and "--recipe emoji-d2o-f" in following


def test_a_model_of_many_steps_is_sampled_in_many(place, capsys):
    following = paste(f"d2o pretrain --data digits --set '{UNET}' --out teacher", capsys)
    assert following
    words = "--recipe pretrain --set pretrained=true"
    following = paste(f"d2o finetune --from teacher --data digits {words} --out longer", capsys)
    assert following and "--steps 18" in following and paste(following, capsys) is None


def test_words_come_back_as_they_were_given():
    options = DataOptions(data="x", resolution=8, classes="a b=0,c=1", labels="none")
    given = repeat(options, Preparation)
    assert given == {"resolution": 8, "labels": "none", "classes": "a b=0,c=1"}
    words = ["--resolution", "8", "--labels", "none", "--classes", "a b=0,c=1"]
    assert shlex.split(write_command("evaluate", {**given, "split": None}, "a", "b")) == [
        "d2o",
        "evaluate",
        "a",
        "b",
        *words,
    ]
    assert not repeat(DeviceOptions(), DeviceOptions)
