"""The demo of emoji runs from start to end and reports what scripts rely on."""

import json
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import d2o
from conftest import make_denoiser
from d2o.cli.main import run
from d2o.demo import emoji
from d2o.discriminators import Projected
from d2o.training import recipes

TINY = {"kind": "text_unet", "channels": 8, "channel_multipliers": [1], "num_blocks": 1, "attention_resolutions": []}
GENERATORS = {"teacher", "untuned", "student"}


def look(pixels):
    """Stand in for the feature network, which would take most of the time: the pixels of a small image."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    return F.avg_pool2d(images, 4).flatten(1)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Shorten the training and the looking afterwards, and pre-train a teacher."""
    judge = Projected(size=32, width=8, weights="random")
    changes = {"emoji-pretrain": {"backbone": TINY}, "emoji-relativistic": {"discriminator": judge}}
    with pytest.MonkeyPatch.context() as patch:
        for name, more in changes.items():
            patch.setitem(
                recipes.RECIPES, name, replace(recipes.RECIPES[name], duration=64, batch_size=32, data=None, **more)
            )
        patch.setattr(emoji, "DURATION", 64)
        patch.setattr(emoji, "EACH", 1)
        patch.setattr(emoji, "TEACHER_STEPS", 2)
        patch.setattr(emoji, "embedding", lambda name: look)
        out = tmp_path_factory.mktemp("teacher") / "teacher"
        d2o.pretrain("emoji-smileys", "emoji-pretrain", out=out)
        yield out


@pytest.fixture(scope="module")
def made(short, tmp_path_factory):
    """Return the folder of a demo and what it reported."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, emoji.demo(out, 3, start=str(short))


def test_report_has_the_keys_that_scripts_rely_on(made):
    out, summary = made
    stored = json.loads((out / "report.json").read_text())
    assert stored == summary and stored["seed"] == 3 and stored["images"] == stored["real_images"] > 150
    for name in ("retrieval", "kid", "precision", "recall", "diversity"):
        assert stored[name].keys() == GENERATORS
    assert all(0 <= stored[name][one] <= 1 for name in ("retrieval", "precision", "recall") for one in GENERATORS)
    assert stored["moved_parameters"] == round(stored["parameters"] * (1 - stored["frozen_share"]))


def test_page_is_self_contained(made):
    page = (made[0] / "report.html").read_text()
    assert page.count("<img") == 4 * len(emoji.SHOWN) + 1
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)', page))
    assert not re.search(r"https?://|<script|<link|@import|\$\{?[a-z]", page)


def test_the_command_continues_without_another_training(short, made, capsys):
    out, summary = made
    before = {path: path.read_bytes() for path in out.glob("*/*.safetensors")}
    assert run(["demo", "emoji", "--from", str(short), "--out", str(out), "--seed", "3", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {path: path.read_bytes() for path in out.glob("*/*.safetensors")} == before != {}
    assert again["retrieval"] == summary["retrieval"]


def test_a_model_that_cannot_be_asked_for_emoji_is_named_before_the_work(tmp_path, capsys):
    d2o.save(tmp_path / "other.safetensors", make_denoiser(channels=3))
    assert run(["demo", "emoji", "--from", str(tmp_path / "other.safetensors"), "--out", str(tmp_path / "out")]) == 2
    assert "other.safetensors" in capsys.readouterr().err and not (tmp_path / "out").exists()
