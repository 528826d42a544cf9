"""The demo of shapes runs from start to end, with and without pre-training, and reports what scripts rely on."""

import json
import re
from dataclasses import replace

import pytest

import d2o
from conftest import make_denoiser
from d2o.cli.main import run
from d2o.data.shapes import SPLITS
from d2o.demo import shapes
from d2o.discriminators import Projected
from d2o.metrics.shapes import WORDS
from d2o.training import recipes

JUDGE = Projected(size=32, width=8, weights="random")
TINY = {"kind": "text_transformer", "channels": 8, "num_blocks": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def short():
    """Shorten both trainings and the looking afterwards."""
    changes = {"shapes-pretrain": {"backbone": TINY}, "shapes-d2o-f": {"discriminator": JUDGE}}
    with pytest.MonkeyPatch.context() as patch:
        for name, more in changes.items():
            recipe = replace(recipes.RECIPES[name], duration=64, batch_size=32, **more)
            patch.setitem(recipes.RECIPES, name, recipe)
        patch.setattr(shapes, "IMAGES", 1)
        patch.setattr(shapes, "TRIED", (1, shapes.CALLS))
        yield patch


@pytest.fixture(scope="module")
def made(short, tmp_path_factory):
    """Return the folder of a demo that pre-trained its own teacher, and what it reported."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, shapes.demo(out, 3)


def test_report_has_the_keys_that_scripts_rely_on(made):
    out, summary = made
    stored = json.loads((out / "report.json").read_text())
    assert stored == summary and stored["seed"] == 3
    for split in ("seen", "held_out"):
        for name, calls in (("teacher", 4), ("untuned", 1), ("student", 1)):
            row = stored[split][name]
            assert row["calls"] == calls and all(0 <= row[word] <= 1 for word in WORDS)
            assert row["all_right"] <= min(row[word] for word in ("size", "colour", "shape", "place"))
    assert {"pretrain", "finetune", "evaluate", "total"} <= stored["seconds"].keys()


def test_page_is_self_contained_and_marks_what_is_held_out(made):
    page = (made[0] / "report.html").read_text()
    assert page.count("<img") == 3 * len(shapes.SHOWN) + 1
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)', page))
    assert not re.search(r"https?://|<script|<link|@import|\$\{?[a-z]", page)
    held_out = [meaning.caption() for meaning in shapes.SHOWN if meaning in SPLITS["test"]]
    assert re.findall(r'<th><span class="mark">([^<]*)', page) == held_out != []


def test_the_same_command_continues_without_another_training(made):
    out, summary = made
    before = {path: path.read_bytes() for path in out.glob("*/*.safetensors")}
    again = shapes.demo(out, 3)
    assert {path: path.read_bytes() for path in out.glob("*/*.safetensors")} == before != {}
    assert again["seen"] == summary["seen"]


def test_a_given_teacher_takes_the_place_of_pretraining(short, made, tmp_path, capsys):
    teacher = made[0] / "teacher"
    assert run(["demo", "shapes", "--from", str(teacher), "--out", str(tmp_path / "a"), "--seed", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seen"] == made[1]["seen"] and found["seconds"]["pretrain"] == 0
    assert not (tmp_path / "a/teacher").exists() and (tmp_path / "a/report.html").exists()


def test_a_model_that_cannot_be_asked_for_shapes_is_named_before_the_work(tmp_path, capsys):
    d2o.save(tmp_path / "other.safetensors", make_denoiser(channels=3))
    for model, name in (("digits-teacher", "digits-teacher"), (str(tmp_path / "other.safetensors"), "other")):
        assert run(["demo", "shapes", "--from", model, "--out", str(tmp_path / "b")]) == 2
        (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("d2o: ")]
        assert name in sentence and "shapes-teacher" in sentence and not (tmp_path / "b").exists()


def test_only_shapes_are_made_from_a_model(tmp_path, capsys):
    assert run(["demo", "digits", "--from", "shapes-teacher", "--out", str(tmp_path / "c")]) == 2
    assert "--from" in capsys.readouterr().err and not (tmp_path / "c").exists()
