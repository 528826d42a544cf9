"""The same objects written by Python's own pickle and by torch's own save: what honest files of today are made of."""

import io
import pickle
import pickletools
import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import d2o
from d2o.checkpoints import CheckpointError, inspect

from .test_edm import NCSNPP, SONG, assert_same_weights, network, write


class Persistent:
    """An object that is pickled as a record of its class's source and its attributes."""

    def __reduce__(self):
        record = {"type": "class", "version": 6, "module_src": "# source\n", "class_name": type(self).__name__}
        return _reconstruct_persistent_obj, (record | {"state": object.__reduce__(self)[2]},)


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the file was executed")


@pytest.fixture(autouse=True)
def persistence(monkeypatch):
    """Give the function the name under which files know it, and show that no reader calls it."""
    module = ModuleType("torch_utils.persistence")
    module.__dict__["_reconstruct_persistent_obj"] = _reconstruct_persistent_obj
    monkeypatch.setattr(_reconstruct_persistent_obj, "__module__", module.__name__)
    monkeypatch.setitem(sys.modules, "torch_utils", ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def persistent(class_name: str, module: nn.Module, arguments: tuple = (), **settings: Any) -> nn.Module:
    """Make a module one that NVIDIA's tools would have written; attributes of ours are left out."""
    for name in [name for name in vars(module) if not name.startswith("_") and name != "training"]:
        delattr(module, name)
    module.__class__ = type(class_name, (Persistent, type(module)), {})
    module.__dict__ |= {"_init_args": arguments, "_init_kwargs": settings, "skip_scale": np.sqrt(0.5)}
    return module


def wrapped(made: nn.Module, settings: dict[str, Any], arguments: tuple = ()) -> nn.Module:
    """Return the preconditioned network around a copy of `made`, each of its layers an object of its own."""
    outer = nn.Module()
    outer.model = deepcopy(made)
    for module in outer.model.modules():
        if not isinstance(module, nn.ModuleDict):
            persistent(type(module).__name__, module)
    return persistent("EDMPrecond", outer.eval().requires_grad_(False), arguments, **settings)


def pure(value: Any) -> bytes:
    """Return what Python's pickler writes that is itself written in Python."""
    file = io.BytesIO()
    pickle._Pickler(file, 4).dump(value)  # type: ignore[attr-defined]
    return file.getvalue()


def saved(zipped: bool) -> Callable[[Any], bytes]:
    """Return what torch.save writes of a training state."""

    def save(value: Any) -> bytes:
        file = io.BytesIO()
        state = {"optimizer_state": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}}
        torch.save(value | state, file, _use_new_zipfile_serialization=zipped)
        return file.getvalue()

    return save


WRITERS: dict[str, Callable[[Any], bytes]] = {
    **{f"protocol {version}": lambda value, version=version: pickle.dumps(value, version) for version in range(2, 6)},
    "in Python": pure,
    "optimised": lambda value: pickletools.optimize(pickle.dumps(value, 4)),
    "optimised, protocol 2": lambda value: pickletools.optimize(pickle.dumps(value, 2)),
    "torch, zip": saved(True),
    "torch, legacy": saved(False),
}


@pytest.mark.parametrize("write_it", WRITERS.values(), ids=WRITERS)
def test_every_writer(tmp_path, write_it):
    made = network(NCSNPP)
    content = {"ema": wrapped(made, NCSNPP), "net": wrapped(network(SONG), SONG)}
    path = write(tmp_path, write_it(content))
    denoiser = d2o.load(path)
    assert_same_weights(denoiser, made)
    assert_same_weights(d2o.load(path, key="net"), network(SONG))
    assert denoiser.provenance["class"] == inspect(path).class_name == "EDMPrecond"


def channels_last(module: nn.Module) -> None:
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def attributes_of_weights(module: nn.Module) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        vars(tensor).update(origin="a note")


def parts_of_one_storage(module: nn.Module) -> None:
    parameters = list(module.parameters())
    whole = torch.cat([parameter.detach().flatten() for parameter in parameters])
    for parameter, part in zip(parameters, whole.split([p.numel() for p in parameters]), strict=True):
        parameter.data = part.view(parameter.shape)


def other_attributes(module: nn.Module) -> None:
    module.__dict__ |= {"device": torch.device("cpu"), "dtype": torch.float16, "shape": torch.Size([1, 2])}
    module.__dict__ |= {"order": np.asfortranarray(np.eye(3)), "type": np.dtype("f4"), "count": np.int64(3)}


def a_passing_buffer(module: nn.Module) -> None:
    module.register_buffer("passing", torch.ones(3), persistent=False)


@pytest.mark.parametrize(
    "change", [channels_last, attributes_of_weights, parts_of_one_storage, other_attributes, a_passing_buffer]
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_every_kind_of_tensor(tmp_path, change, protocol):
    made = network(NCSNPP)
    ema = wrapped(made, NCSNPP)
    change(ema)
    assert_same_weights(d2o.load(write(tmp_path, pickle.dumps({"ema": ema}, protocol))), made)


def test_arguments_without_names(tmp_path):
    made, settings = network(SONG), dict(SONG)
    first = tuple(settings.pop(name) for name in ("img_resolution", "img_channels", "label_dim", "use_fp16"))
    path = write(tmp_path, pickle.dumps({"ema": wrapped(made, settings, first)}))
    assert_same_weights(d2o.load(path), made)
    for arguments in ((*first, 0), (0.5, *first[1:])):
        path = write(tmp_path, pickle.dumps({"ema": wrapped(made, settings, arguments)}))
        with pytest.raises(CheckpointError, match="network-snapshot"):
            d2o.load(path)


def test_a_class_of_its_own_is_not_taken_from_a_legacy_file(tmp_path):
    file = io.BytesIO()
    torch.save({"ema": nn.Linear(2, 2)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        d2o.load(write(tmp_path, file.getvalue()))
