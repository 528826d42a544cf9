"""Files of torch.save and foreign state dicts: read as data, whatever stands beside the weights."""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import d2o
from d2o.checkpoints import CheckpointError
from d2o.errors import MalformedCheckpointError, UnsafeCheckpointError, UnsupportedCheckpointError
from d2o.pickles.torch_state import read_state

from . import honest
from .encoder import Call

STATE = {
    "whole": torch.arange(12.0).view(3, 4), "turned": torch.arange(12.0).view(3, 4).T, "part": torch.arange(9.0)[2:5],
    "half": torch.ones(3).half(), "brain": torch.ones(2).bfloat16(), "one": torch.tensor(3), "none": torch.zeros(0, 4),
    "yes": torch.tensor([True, False]), "spread": torch.ones(1).expand(4).clone()[::2],
}  # fmt: skip


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) and found[name].is_contiguous()


@pytest.mark.parametrize("zipped", [True, False])
class TestWhatTorchWrites:
    def save(self, path: Path, value: object, zipped: bool) -> Path:
        torch.save(value, path / "model.pt", _use_new_zipfile_serialization=zipped)
        return path / "model.pt"

    def test_state_dicts(self, tmp_path, zipped):
        path = self.save(tmp_path, STATE, zipped)
        assert_same(read_state(path), STATE)
        meta = read_state(path, meta=True)
        assert all(g.is_meta and g.shape == STATE[n].shape and g.dtype == STATE[n].dtype for n, g in meta.items())

    def test_parameters_and_metadata(self, tmp_path, zipped):
        module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        path = self.save(tmp_path, module.state_dict(keep_vars=True), zipped)
        assert_same(read_state(path), dict(module.state_dict()))

    def test_training_checkpoints(self, tmp_path, zipped):
        optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(3))])
        optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
        optimizer.step()
        options = argparse.Namespace(model="DiT-S/2", epochs=1400, ckpt=None, rates=[1e-4])
        content = {"model": {"w": torch.zeros(2)}, "ema": STATE, "opt": optimizer.state_dict(), "args": options}
        path = self.save(tmp_path, content, zipped)
        assert_same(read_state(path), STATE)
        assert_same(read_state(path, key="model"), {"w": torch.zeros(2)})

    def test_whole_modules_are_refused(self, tmp_path, zipped):
        with pytest.raises(UnsafeCheckpointError, match=r"model\.pt"):
            d2o.load(self.save(tmp_path, nn.Linear(2, 2), zipped))

    def test_unknown_networks_are_named(self, tmp_path, zipped):
        path = self.save(tmp_path, nn.Linear(2, 2).state_dict(), zipped)
        with pytest.raises(UnsupportedCheckpointError, match=r"weight.*bias"):
            d2o.load(path)

    @pytest.mark.parametrize("content", [3, [1], {}, {"a": 1}, {"ema": {"a": 1}}, torch.zeros(3)])
    def test_no_state_dict(self, tmp_path, zipped, content):
        with pytest.raises(UnsupportedCheckpointError, match=r"state_dict|tensors"):
            d2o.load(self.save(tmp_path, content, zipped))


@pytest.mark.parametrize("write", [honest.torch_zip, honest.torch_legacy])
def test_our_encoder_writes_what_torch_reads(tmp_path, write):
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2).half()}
    (tmp_path / "model.pt").write_bytes(write(lambda tensors: {"ema": dict(tensors)}, state))
    assert_same(torch.load(tmp_path / "model.pt", map_location="cpu", weights_only=True)["ema"], state)
    assert_same(read_state(tmp_path / "model.pt"), state)


def namespace(tensors: dict[str, Any]) -> dict[str, Any]:
    return {"ema": dict(tensors), "args": Call("argparse Namespace", (), None, {"lr": 1e-4, "name": "x"}, new=True)}


def test_storages_that_overlap_within_a_zip_take_no_more_than_the_file(tmp_path):
    state = {"a": torch.arange(1000.0)}
    (tmp_path / "model.pt").write_bytes(honest.torch_zip(namespace, state))
    assert_same(read_state(tmp_path / "model.pt"), state)
    many = {f"w{index}": None for index in range(100)}
    content = honest.torch_zip(lambda tensors: dict.fromkeys(many, tensors["a"]), state)
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(MalformedCheckpointError, match="larger than the file"):
        read_state(tmp_path / "model.pt")


def test_a_zip_that_is_no_torch_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.pt", "w") as archive:
        archive.writestr("00000/img0.png", b"x")
    with pytest.raises(CheckpointError, match=r"images\.pt"):
        d2o.load(tmp_path / "images.pt")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("write", [honest.torch_zip, honest.torch_legacy])
def test_cut_files(tmp_path, share, write):
    content = write(lambda tensors: dict(tensors), {"a": torch.arange(100.0)})
    (tmp_path / "model.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        d2o.load(tmp_path / "model.pt")
