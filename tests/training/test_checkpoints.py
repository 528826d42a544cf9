"""A checkpoint has what moves, and the hash of the base that has the rest; both together are the whole run."""

import shutil
from typing import Any

import pytest
import torch

import d2o
from d2o.checkpoints import inspect, native
from d2o.cli.main import run
from d2o.training import fit
from d2o.training.base import find_base
from d2o.training.recipes import find_recipe
from d2o.training.run import Habits
from refusal import refused

from .command import BATCH, arguments, complaint

CHECKPOINT = "checkpoint.safetensors"


@pytest.fixture
def out(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def moved(out, teacher, tmp_path):
    """Return a run whose base is at a place of its own, and that place."""
    base = tmp_path / "base.safetensors"
    shutil.copy(teacher, base)
    rewrite(out, {**native.read_header(out / CHECKPOINT)["base"], "from": str(base)})
    return out, base


def rewrite(out, base):
    tensors, spec = native.read(out / CHECKPOINT)
    native.write(out / CHECKPOINT, tensors, {**spec, "base": base})


def test_a_checkpoint_has_what_moves_alone(stopped, teacher):
    tensors, spec = native.read(stopped / CHECKPOINT)
    denoiser = d2o.load(stopped)
    role: Any = denoiser.backbone.role
    names = [name for name, _ in denoiser.backbone.named_parameters()]
    frozen = {f"backbone.{name}" for name in names if role(name) in ("convolution", "projection")}
    for part in ("student", "ema"):
        names = {name.removeprefix(f"{part}.") for name in tensors if name.startswith(f"{part}.")}
        assert names == denoiser.state_dict().keys() - frozen
    assert spec["base"]["from"] == str(teacher.absolute())
    assert not any(name.endswith("exp_avg") for name in tensors), "without momentum it is forgotten"
    start = d2o.load(teacher).state_dict()
    assert all(torch.equal(denoiser.state_dict()[name], start[name]) for name in frozen)


def test_an_unfinished_run_is_a_model_wherever_its_base_is(moved, teacher, tmp_path, capsys):
    out, base = moved
    wanted = d2o.load(out).state_dict()
    base.rename(tmp_path / "elsewhere.safetensors")
    with refused(str(out / CHECKPOINT), str(base), "--base"):
        d2o.load(out)
    found = d2o.load(out, base=tmp_path / "elsewhere.safetensors").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    words = ["sample", str(out), "--seeds", "0", "--out", str(tmp_path / "x.png")]
    assert run(words) == 2 and "--base" in complaint(capsys.readouterr().err)
    assert run([*words, "--base", str(tmp_path / "elsewhere.safetensors")]) == 0
    assert "base" in inspect(out).kind


@pytest.mark.parametrize("base", [5, "model", [], {"sha256": "0"}, {"from": 3, "sha256": "0"}])
def test_a_base_that_says_nothing_is_damage(out, teacher, tiny_data, capsys, base):
    rewrite(out, base)
    (out / "previous.safetensors").unlink(missing_ok=True)
    with refused(str(out / CHECKPOINT)):
        d2o.load(out)
    capsys.readouterr()
    assert run(arguments(teacher, tiny_data, out)) == 2
    assert CHECKPOINT in complaint(capsys.readouterr().err)


def test_another_model_in_the_place_of_the_base_is_refused(moved, teacher, tiny_denoiser, tiny_data, capsys):
    out, base = moved
    d2o.save(base, tiny_denoiser(seed=3, classes=2))
    with refused(str(out / CHECKPOINT), str(base), "base of hash"):
        d2o.load(out)


def test_a_run_does_not_go_on_from_another_model(out, teacher, tiny_denoiser, tiny_data, tmp_path, finished, capsys):
    kept = tmp_path / "kept"
    shutil.copy(teacher, kept)
    try:
        d2o.save(teacher, tiny_denoiser(seed=3, classes=2))
        capsys.readouterr()
        assert run(arguments(teacher, tiny_data, out)) == 2
        sentence = complaint(capsys.readouterr().err)
        assert str(teacher) in sentence and "put that one back" in sentence
    finally:
        shutil.copy(kept, teacher)
    assert run(arguments(teacher, tiny_data, out)) == 0
    for name in ("ema.safetensors", "student.safetensors"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_a_base_in_a_circle_and_one_to_be_fetched_are_not_opened(moved):
    out, _ = moved
    about = native.read_header(out / CHECKPOINT)["base"]
    for place in (str(out), "https://example.invalid/teacher.safetensors", 5):
        rewrite(out, {**about, "from": place})
        with refused("only the weights that fine-tuning changed", "--base"):
            d2o.load(out)


class TestWholeCheckpoints:
    """Where the base cannot be found again by its name, all that continues a run is in it."""

    def finetune(self, teacher, images, out, **more):
        options = {"duration": 2 * BATCH, "batch_size": BATCH, "discriminator.weights": "random", **more}
        result = d2o.finetune(teacher, images, "digits-d2o-f", out=out, habits=Habits(sample_every=1 << 30), **options)
        return native.read_header(result.directory / CHECKPOINT).get("base")

    def test_of_a_model_in_memory(self, tiny_data, teacher, tmp_path):
        images, model = d2o.images(tiny_data), d2o.load(teacher)
        assert self.finetune(model, images, tmp_path / "a") is None
        tensors, _ = native.read(tmp_path / "a" / CHECKPOINT)
        assert {f"student.{name}" for name in model.state_dict()} <= tensors.keys()
        assert self.finetune(model, images, tmp_path / "b", origin={"from": "nowhere"}) is None
        assert self.finetune(teacher, images, tmp_path / "c") is not None

    def test_of_an_unfinished_run_and_of_a_difference(self, tiny_data, stopped, teacher, tmp_path):
        student = fit.making.make_student(find_recipe("digits-d2o-f"), d2o.load(teacher))
        for origin in (
            {"from": str(stopped)},
            {"from": str(teacher), "family": "edm"},
            {"from": "https://x.invalid/y"},
        ):
            assert find_base(origin, d2o.load(teacher), student) is None
        assert find_base({"from": str(teacher)}, d2o.load(teacher), student) is not None

    def test_of_frozen_weights_that_are_not_the_models(self, teacher, tiny_denoiser):
        student = fit.making.make_student(find_recipe("digits-d2o-f"), tiny_denoiser(seed=3, classes=2))
        assert find_base({"from": str(teacher)}, d2o.load(teacher), student) is None
