"""A run that diverges is told as such wherever it shows first, and its last good checkpoint stays."""

import pytest
import torch

import d2o
from d2o.checkpoints import native
from d2o.cli.main import run
from d2o.errors import Diverged
from d2o.training import run as runs
from refusal import refused

from .command import arguments, complaint

REMEDY = ("training has diverged", "lower learning rate", "float32")


@pytest.fixture
def broken(tmp_path, tiny_denoiser):
    denoiser = tiny_denoiser(classes=2)
    with torch.no_grad():
        next(denoiser.parameters()).fill_(float("nan"))
    d2o.save(tmp_path / "broken.safetensors", denoiser)
    return tmp_path / "broken.safetensors"


def spoil(monkeypatch, network: str, at: int, value: float) -> None:
    """Let the weights of a network be `value` after the iteration that reaches `at` images."""
    step = runs.train

    def train(recipe, networks, batches, **options):
        for progress in step(recipe, networks, batches, **options):
            if progress.images == at:
                with torch.no_grad():
                    networks[network].backbone.map_layer0.weight.fill_(value)
            yield progress

    monkeypatch.setattr(runs, "train", train)


@pytest.mark.parametrize(
    ("network", "at", "value", "more"),
    [
        ("ema", 120, "nan", []),  # the grid shows it
        ("ema", 64, "nan", ["--evaluate-every", "64", "--evaluate-images", "16", "--features", "pixels"]),
        ("student", 64, "inf", []),  # so does the checkpoint that is due
        ("student", 72, "nan", []),  # and else the gradients that follow
        ("student", 240, "nan", ["--sample-every", "1000"]),  # or the end
    ],
)
def test_a_run_names_its_last_good_checkpoint(
    tmp_path, teacher, tiny_data, monkeypatch, capsys, network, at, value, more
):
    spoil(monkeypatch, network, at, float(value))
    out = tmp_path / "run"
    assert run([*arguments(teacher, tiny_data, out), *more]) == 2
    sentence = complaint(capsys.readouterr().err)
    assert all(word in sentence for word in (*REMEDY, str(out / "checkpoint.safetensors")))
    tensors, spec = native.read(out / "checkpoint.safetensors")
    assert spec["images"] < at + 1 and all(tensor.isfinite().all() for tensor in tensors.values())
    assert not (out / "ema.safetensors").exists()


@pytest.mark.parametrize("out", ["grid.png", "images.npz", "images.zip", "images"])
def test_sampling_names_the_model(broken, tmp_path, capsys, out):
    assert run(["sample", str(broken), "--seeds", "0-3", "--out", str(tmp_path / out)]) == 2
    sentence = complaint(capsys.readouterr().err)
    assert all(word in sentence for word in (*REMEDY, str(broken)))
    assert not (tmp_path / out).exists()


def test_evaluations_and_exports_say_so(broken, tiny_data, tmp_path, capsys):
    assert run(["evaluate", str(broken), str(tiny_data), "--features", "pixels", "--images", "16"]) == 2
    assert run(["export", str(broken), str(tmp_path / "out.safetensors"), "--to", "safetensors"]) == 2
    sentences = [line for line in capsys.readouterr().err.splitlines() if line.startswith("d2o: ")]
    assert len(sentences) == 2 and all(word in sentence for sentence in sentences for word in REMEDY)
    assert not (tmp_path / "out.safetensors").exists()


def test_the_first_save_of_a_diverged_run_starts_at_the_beginning():
    with refused("its beginning", *REMEDY, error=Diverged):
        raise Diverged("The weights are not finite", "its beginning")
