"""The models that a server offers: named ones and those that come with d2o."""

import json

import pytest

import d2o
from d2o.checkpoints.shipped import SHIPPED, TEACHERS, find_shipped
from d2o.encoders.codec import Autoencoder
from d2o.server.models import offer_models, open_model

from .offered import examples_of

SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 16, 16), "shapes": (3, 16, 16), "emoji": (3, 32, 32)}


@pytest.fixture
def file(tmp_path, tiny_denoiser):
    d2o.save(tmp_path / "own.safetensors", tiny_denoiser(classes=2))
    return str(tmp_path / "own.safetensors")


def test_what_comes_with_d2o_is_offered():
    offered = offer_models([])
    assert next(iter(offered.denoisers)) == "emoji" and set(offered.denoisers) == set(SHIPPED)
    for name, denoiser in offered.denoisers.items():
        assert denoiser.image_shape == SHAPES[name.split("-")[0]] and denoiser.one_step == (name in TEACHERS)
        assert denoiser.num_classes == (0 if denoiser.reader else 10)
    for name, teacher in TEACHERS.items():
        assert offered.fitting_teachers(name) == [teacher, name]


def test_the_page_is_told_what_a_model_can_be_asked_in_words():
    rows = {row["name"]: row for row in offer_models([]).describe()}
    assert rows["digits-small"]["prompts"] == () and len(rows["shapes-small"]["prompts"]) > 1
    assert set(rows["shapes-small"]["prompts"]) <= set(examples_of("shapes-small"))


def test_what_comes_with_d2o_is_small_and_described():
    assert sum(find_shipped(name).stat().st_size for name in SHIPPED) < 20e6
    card = (find_shipped("digits-small").parent / "README.md").read_text()
    assert all(f"| `{name}` |" in card for name in SHIPPED)


def test_the_callers_own_come_first_and_do_not_tell_their_folder(file, tmp_path):
    offered = offer_models([file, file], file)
    assert list(offered.denoisers)[:3] == ["own.safetensors", "own.safetensors (2)", "own.safetensors (3)"]
    assert offered.fitting_teachers("own.safetensors")[0] == "own.safetensors (3)"
    assert offered.fitting_teachers("digits-small") == ["digits-teacher", "digits-small"]
    assert str(tmp_path) not in str(offered.describe())


def test_without_a_teacher_the_model_itself_is_one(file):
    assert offer_models([file]).fitting_teachers("own.safetensors") == ["own.safetensors"]


def test_a_teacher_alone_is_offered_with_its_student():
    assert list(offer_models([], "digits-teacher").denoisers)[:2] == ["digits-small", "digits-teacher"]


def test_a_teacher_of_other_images_is_refused(file):
    with pytest.raises(ValueError, match=r"digits-teacher .* own.* 10 classes, .* 2"):
        offer_models([file], "digits-teacher")


def test_a_model_of_many_steps_is_described_as_one(file):
    own, student, *_ = offer_models([file]).describe()
    assert own["notice"] and student["name"] == "emoji" and student["notice"] is None
    assert own["image_shape"] == (1, 8, 8) and own["num_classes"] == 2


def test_the_codec_that_a_named_file_names_is_opened_as_by_sample(tmp_path, tiny_denoiser):
    config = {"_class_name": "AutoencoderKL", "out_channels": 3, "block_out_channels": [8, 8]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    d2o.save(tmp_path / "a.safetensors", tiny_denoiser(channels=4).replace(codec=Autoencoder(str(tmp_path))))
    offered = offer_models([str(tmp_path / "a.safetensors")])
    assert offered.describe()[0]["image_shape"] == (3, 16, 16) and str(tmp_path) not in str(offered.describe())


def test_latent_images_need_the_command_lines_codec(tmp_path, tiny_denoiser):
    d2o.save(tmp_path / "a.safetensors", tiny_denoiser(channels=4))
    for opened in (open_model, lambda path: offer_models([path])):
        with pytest.raises(ValueError, match="--codec"):
            opened(str(tmp_path / "a.safetensors"))
