"""From captions to a one-step generator that is asked in words."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import d2o
from d2o.cli.main import main, run
from d2o.data.datasets import open_images
from d2o.diffusion.condition import Words
from d2o.diffusion.sampling import generate
from d2o.export import export
from d2o.training.fit import finetune, pretrain
from d2o.training.networks import learn_words
from refusal import refused

SMALL = {"kind": "text_transformer", "channels": 16, "num_blocks": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    shapes = open_images("shapes").subset(range(256))
    pretrain(shapes, "shapes-pretrain", out=folder / "teacher", backbone=SMALL, duration=256)
    tiny = {"kind": "projected", "networks": ["tf_efficientnet_lite0"], "size": 32, "width": 16, "weights": "random"}
    changes = {"duration": 64, "batch_size": 16, "discriminator": tiny}
    finetune(folder / "teacher", shapes, "shapes-d2o-f", out=folder / "student", **changes)
    return folder


def test_the_words_travel_from_data_to_model_to_student(runs):
    teacher, student = d2o.load(runs / "teacher"), d2o.load(runs / "student")
    assert teacher.reader == student.reader and isinstance(teacher.reader, Words)
    assert {"red", "circle", "left"} <= set(teacher.reader.words) and student.one_step
    assert teacher.num_classes == 0


def test_a_caption_reaches_the_image(runs):
    student = d2o.load(runs / "student")
    red, same, blue = (
        torch.cat(list(generate(student, [3, 4], condition=f"a small {colour} circle at the left")))
        for colour in ("red", "red", "blue")
    )
    assert torch.equal(red, same) and not torch.equal(red, blue)


def test_prompts_on_the_command_line_are_those_of_the_library(runs, tmp_path):
    first, second = "a small red circle at the left", "a large white square at the top"
    (tmp_path / "prompts.txt").write_text(f"{second}\n\n", encoding="utf-8-sig")
    done = run([
        "sample", str(runs / "student"), "--seeds", "0-3", "--prompt", first,
        "--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "a.npz"),
    ])  # fmt: skip
    assert done == 0
    student = d2o.load(runs / "student")
    images = torch.cat(list(generate(student, range(4), condition=[first, second] * 2)))
    expected = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.abs(np.load(tmp_path / "a.npz")["images"].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--prompt", "dogs bark"], ("'dogs'",)),
        (["--prompt", "a red circle", "--prompt", " "], ("--prompt is empty",)),
        (["--prompt", "a " * 40], ("40",)),
        (["--class", "3"], ("--prompt",)),
        (["--prompts", "nowhere.txt"], ("--prompts", "nowhere.txt")),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(runs, tmp_path, options, names, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["sample", str(runs / "student"), "--seeds", "0-1", "--out", str(tmp_path / "a.png"), *options])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and all(name in told for name in names) and "Traceback" not in told
    assert not (tmp_path / "a.png").exists()


def test_unknown_words_are_told_once_and_left_out(runs, caplog):
    reader = d2o.load(runs / "student").reader
    assert isinstance(reader, Words)
    with caplog.at_level("WARNING", logger="d2o"):
        told = reader(["a red dog circle", "dog : a red circle"])
        reader(["a dog"])
    assert told.tolist() == reader(["a red circle"] * 2).tolist()
    assert [record.getMessage().count("'dog'") for record in caplog.records] == [1]
    for _ in range(2):
        with refused("'dog'"):
            reader(["a circle", "dog"])


def test_it_is_exported_where_its_words_can_be_read(runs, tmp_path):
    student = d2o.load(runs / "student")
    assert export(student, tmp_path / "a.safetensors", "safetensors").error == 0
    assert d2o.load(tmp_path / "a.safetensors").reader == student.reader
    with refused("--to safetensors"):
        export(student, tmp_path / "a.onnx", "onnx")


def test_data_without_captions_is_refused(runs, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([
            "finetune", "--from", str(runs / "teacher"), "--data", "shapes", "--captions", "none",
            "--recipe", "shapes-d2o-f", "--out", str(tmp_path / "run"),
        ])  # fmt: skip
    assert ended.value.code == 2 and "captions" in capsys.readouterr().err


def test_the_run_says_which_recipe_made_it(runs):
    recipe = json.loads((runs / "student" / "recipe.json").read_text())["recipe"]
    assert "text" in recipe["frozen"] or recipe["frozen"]


def test_words_of_data_that_a_model_does_not_know_are_told_once(runs, caplog):
    images = open_images("shapes").subset(range(64))
    reader = d2o.load(runs / "teacher").reader
    assert isinstance(reader, Words)
    known = [text for index in range(len(images)) for text in images.captions(index)]
    caplog.clear()
    reader.check(known, "shapes")
    assert not caplog.records
    reader.check([*known, f"{known[0]} zebra", f"{known[1]} zebra quagga"], "others")
    (record,) = caplog.records
    assert "zebra, quagga" in record.message and "2" in record.message
    reader([f"{known[0]} zebra"])
    assert len(caplog.records) == 1


def test_a_run_on_captions_that_a_model_cannot_read_does_not_begin(runs, tmp_path):
    with refused("joker", "emoji"):
        finetune("emoji-teacher", "emoji", "emoji-d2o-f", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("teacher", ["emoji-teacher", "shapes-teacher"])
def test_a_model_learns_new_words_and_knows_the_others_as_before(teacher):
    model: Any = d2o.load(teacher)
    asked = model.reader.examples[0]
    wider: Any = learn_words(model, Words.of([f"{asked} quagga " + "red " * 99]))
    assert wider.reader.words == (*model.reader.words, "quagga") and wider.reader.length > model.reader.length
    x, known = torch.randn(2, *model.image_shape), [asked] * 2
    torch.testing.assert_close(wider(x, 2.0, wider.reader(known)), model(x, 2.0, model.reader(known)))
    with_new = wider(x, 2.0, wider.reader([asked, f"{asked} quagga"]))
    assert not torch.equal(with_new[1], wider(x, 2.0, wider.reader(known))[1])
    assert learn_words(model, Words.of([asked])) is model


def test_pre_training_that_goes_on_with_other_captions_learns_their_words(runs, tmp_path):
    emoji = open_images("emoji-smileys", resolution=16, resize="area").subset(range(64))
    changes: Any = {"pretrained": True, "duration": 32, "batch_size": 16, "learning_rate": 1e-6}
    start: Any = d2o.load(runs / "teacher")
    went_on: Any = finetune(runs / "teacher", emoji, "shapes-pretrain", out=tmp_path / "run", **changes).denoiser
    assert {"heart", "circle"} <= set(went_on.reader.words) and not went_on.one_step
    x, red = torch.randn(1, 3, 16, 16), ["a small red circle at the left"]
    known, before = went_on(x, 0.5, went_on.reader(red)), start(x, 0.5, start.reader(red))
    torch.testing.assert_close(known, before, rtol=1e-3, atol=1e-3)
    again = finetune(runs / "teacher", emoji, "shapes-pretrain", out=tmp_path / "run", **changes)
    assert again.denoiser.reader == went_on.reader
    with refused("does not know"):
        finetune(runs / "teacher", emoji, "shapes-pretrain", out=tmp_path / "other", frozen=("text",), **changes)
