"""The models of the page: named ones, those that come with d2o, and uploads that can name nothing on this machine."""

import pickle

import pytest

import d2o
from d2o.app.models import LARGEST_SIDE, UPLOADS, Models, models
from d2o.checkpoints.shipped import SHIPPED, TEACHERS, shipped

SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 16, 16)}


@pytest.fixture
def file(tmp_path, tiny_denoiser):
    d2o.save(tmp_path / "own.safetensors", tiny_denoiser(classes=2))
    return tmp_path / "own.safetensors"


@pytest.mark.parametrize("name", SHIPPED)
def test_what_comes_with_d2o_is_read(name):
    denoiser = Models().get(name)
    assert denoiser.image_shape == SHAPES[name.split("-")[0]] and denoiser.num_classes == 10
    assert (denoiser.preconditioning.kind == "boundary") == (name in TEACHERS)


def test_what_comes_with_d2o_is_small_and_described():
    assert sum(shipped(name).stat().st_size for name in SHIPPED) < 20e6
    card = (shipped("digits-small").parent / "README.md").read_text()
    assert all(f"| `{name}` |" in card for name in SHIPPED)


def test_the_callers_own_come_first_beside_their_teacher(file):
    offered = models([str(file)], str(file))
    assert offered.names[0] == str(file) and set(SHIPPED) < set(offered.names)
    assert offered.teacher_of(str(file)) == str(file)
    assert offered.teacher_of("digits-small") == "digits-teacher"


def test_a_teacher_alone_is_for_the_digits():
    offered = models([], "digits-teacher")
    assert offered.names[:2] == ["digits-small", "digits-teacher"] and set(offered.names) == set(SHIPPED)


def test_a_teacher_of_other_images_is_refused(file):
    with pytest.raises(ValueError, match="number of classes is 10, not 2"):
        models([str(file)], "digits-teacher")


@pytest.mark.parametrize("name", [None, "", "/etc/passwd", "https://example.org/a.pkl", "hf://a/b/c", [], {}, 3])
def test_only_names_that_are_offered_are_opened(name):
    with pytest.raises(ValueError, match="There is no model"):
        Models().get(name)


class TestUploads:
    def test_one_is_offered_under_its_name(self, file):
        offered = Models()
        assert offered.upload(file, "own.safetensors") == "own.safetensors"
        assert offered.upload(file, "own.safetensors") == "own.safetensors (2)"
        assert offered.get("own.safetensors").num_classes == 2

    def test_its_name_is_only_a_name(self, file):
        offered = Models()
        assert offered.upload(file, "../../x/<img src=x onerror=alert(1)>.pkl") == "_img src_x onerror_alert(1)_.pkl"

    def test_the_oldest_makes_room(self, file):
        offered = Models()
        for number in range(UPLOADS + 2):
            offered.upload(file, f"{number}.safetensors")
        assert [name for name in offered.names if name not in SHIPPED] == [f"{n}.safetensors" for n in (2, 3, 4, 5)]

    @pytest.mark.parametrize(
        "content",
        [b"", b"hello", b"<html>", b"\x80\x04.", b"PK\x03\x04", pickle.dumps(print), b"\x08" + b"\0" * 7 + b"{"],
    )
    def test_what_is_no_checkpoint_is_told_without_its_place(self, tmp_path, content):
        bad = tmp_path / "secret-place" / "upload.pkl"
        bad.parent.mkdir()
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"mine\.pkl") as told:
            Models().upload(bad, "mine.pkl")
        assert str(tmp_path) not in str(told.value) and "\n" not in str(told.value)

    def test_one_names_no_folder_of_this_machine(self, tmp_path, tiny_denoiser):
        denoiser = tiny_denoiser()
        denoiser.provenance = {"codec": {"folder": str(tmp_path)}}
        d2o.save(tmp_path / "a.safetensors", denoiser)
        offered = Models()
        assert offered.get(offered.upload(tmp_path / "a.safetensors", "a")).codec is None

    def test_latent_images_need_the_command_lines_codec(self, tmp_path, tiny_denoiser):
        d2o.save(tmp_path / "a.safetensors", tiny_denoiser(channels=4))
        with pytest.raises(ValueError, match="--codec"):
            Models().upload(tmp_path / "a.safetensors", "a")

    def test_images_that_would_fill_the_memory_are_refused(self, tmp_path, tiny_denoiser):
        denoiser = tiny_denoiser(resolution=LARGEST_SIDE + 8)
        denoiser.image_shape = (1, LARGEST_SIDE + 8, LARGEST_SIDE + 8)
        d2o.save(tmp_path / "a.safetensors", denoiser)
        with pytest.raises(ValueError, match="520 x 520"):
            Models().upload(tmp_path / "a.safetensors", "a")
