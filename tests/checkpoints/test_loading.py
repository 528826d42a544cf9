"""Files are recognised by what they hold, and one that is no checkpoint is told apart from a damaged one."""

import hashlib
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import d2o
from d2o.checkpoints import CheckpointError, inspect
from d2o.cli.main import run
from d2o.errors import MalformedCheckpointError, MismatchError, UnsupportedCheckpointError

from . import honest
from .test_edm import NCSNPP, SONG, assert_same_weights, network, no_warnings, write

NOT_CHECKPOINTS = {
    "is empty": b"",
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 225813967\n",
    "web page": b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>",
    "web page saved": b"<HTML><body>404</body></HTML>",
    "that d2o reads": b"PNG or anything else, longer than a header would be",
}


@pytest.mark.parametrize("name", ["model.pkl", "model.safetensors", "model.pt", "model"])
@pytest.mark.parametrize("sentence", NOT_CHECKPOINTS)
def test_what_is_no_checkpoint(tmp_path, name, sentence):
    (tmp_path / name).write_bytes(NOT_CHECKPOINTS[sentence])
    with pytest.raises(MalformedCheckpointError, match=sentence if name == "model.pkl" else name):
        d2o.load(tmp_path / name)


__all__ = ["no_warnings"]  # a fixture for all tests here


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(CheckpointError, match="run directory"):
        d2o.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"nothing\.pkl"):
        d2o.load(tmp_path / "nothing.pkl")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="sha256"):
        d2o.load(tmp_path, sha256="0" * 64)


@pytest.fixture
def pickle(tmp_path):
    """Return an EDM pickle under a name that tells nothing."""
    (tmp_path / "download").write_bytes(honest.edm_file(honest.network("EDMPrecond", network(SONG), SONG)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield tmp_path / "download"


def test_the_name_does_not_matter(tmp_path, pickle):
    for name in ("edm.safetensors", "edm.pt", "edm-ve"):
        (tmp_path / name).write_bytes(pickle.read_bytes())
        assert d2o.load(tmp_path / name).provenance["class"] == "EDMPrecond"


def test_hashes(pickle):
    digest = hashlib.sha256(pickle.read_bytes()).hexdigest()
    assert d2o.load(pickle, sha256=digest.upper()).provenance["sha256"] == digest
    assert inspect(pickle, sha256=digest).sha256 == digest
    with pytest.raises(MalformedCheckpointError, match=digest):
        d2o.load(pickle, sha256="0" * 64)


def test_a_device_that_is_not_there(pickle):
    with pytest.raises(ValueError, match=r"cuda:77.*cpu"):
        d2o.load(pickle, device="cuda:77")


class TestSafetensorsWithTheirNames:
    def write(self, tmp_path: Path, config: object, made: nn.Module) -> Path:
        tensors = {f"model.{name}": tensor.contiguous() for name, tensor in made.state_dict().items()}
        text = config if isinstance(config, str) else json.dumps(config)
        save_file(tensors, tmp_path / "teacher.safetensors", {"config": text, "note": "a teacher"})
        return tmp_path / "teacher.safetensors"

    def test_it_is_read(self, tmp_path):
        made = network(NCSNPP)
        path = self.write(tmp_path, {"precond": "EDMPrecond", "sigma_data": 0.5, **NCSNPP}, made)
        assert_same_weights(d2o.load(path), made)
        assert inspect(path).parameters == sum(p.numel() for p in made.parameters())

    @pytest.mark.parametrize("config", ["", "[]", "{", {}, {"precond": 3}, {"precond": "Generator"}, "[" * 100_000])
    def test_wrong_descriptions(self, tmp_path, config):
        with pytest.raises(UnsupportedCheckpointError, match=r"teacher\.safetensors"):
            d2o.load(self.write(tmp_path, config, network(SONG)))


class TestInspection:
    def test_no_weights_are_read(self, tmp_path, monkeypatch):
        made = network(NCSNPP)
        path = write(tmp_path, honest.edm_file(honest.network("EDMPrecond", made, NCSNPP)))
        monkeypatch.setattr("d2o.pickles.storages.Stored.read", lambda _: pytest.fail("weights were read"))
        found = inspect(path)
        assert found.parameters == sum(parameter.numel() for parameter in made.parameters())
        assert all(tensor.is_meta for tensor in found.denoiser.state_dict().values())
        record = json.loads(json.dumps(found.as_dict()))
        assert record["class"] == "EDMPrecond" and record["kind"] == "NVIDIA pickle" and len(record["sha256"]) == 64
        assert record["configuration"]["encoder"] == "residual"

    def test_it_checks_what_load_checks(self, tmp_path):
        content = honest.edm_file(honest.network("EDMPrecond", network(SONG), SONG | {"model_channels": 32}))
        with pytest.raises(MismatchError):
            inspect(write(tmp_path, content))
        with pytest.raises(MalformedCheckpointError, match="SHA-256"):
            inspect(write(tmp_path, content), sha256="0" * 64)


class TestCommands:
    def test_convert_and_inspect(self, tmp_path, pickle, capsys):
        out = tmp_path / "teacher.safetensors"
        assert run(["convert", str(pickle), str(out)]) == 0
        before, after = d2o.load(pickle), d2o.load(out)
        assert all(torch.equal(t, after.state_dict()[name]) for name, t in before.state_dict().items())
        assert after.provenance["sha256"] == hashlib.sha256(pickle.read_bytes()).hexdigest()
        for path, kind in ((pickle, "NVIDIA pickle"), (out, "d2o safetensors")):
            capsys.readouterr()
            assert run(["inspect", str(path), "--json"]) == 0
            record = json.loads(capsys.readouterr().out)
            assert record["kind"] == kind and record["class"] == "EDMPrecond" and 0.5 < record["d2o_f"]["share"] < 1
            assert run(["inspect", str(path)]) == 0
            assert f"{record['parameters']:,}" in capsys.readouterr().out

    def test_bad_input(self, tmp_path, pickle, capsys):
        assert run(["convert", str(pickle), str(tmp_path / "teacher.pkl")]) == 2
        assert "must end in .safetensors" in capsys.readouterr().err
        assert run(["inspect", str(tmp_path / "nothing")]) == 2
        assert run(["inspect", str(pickle), "--key", "net"]) == 2
        assert "name 'ema'" in capsys.readouterr().err


def test_models_that_come_with_d2o_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits-small", "digits-teacher"):
        assert d2o.load(name).image_shape == (1, 8, 8)
    (tmp_path / "digits-small").write_text("a file of that name comes first")
    with pytest.raises(CheckpointError, match="digits-small"):
        d2o.load("digits-small")
