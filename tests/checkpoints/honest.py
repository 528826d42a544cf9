"""Honest checkpoints, as the reference code writes them: NVIDIA's pickles and files of torch.save."""

import io
import struct
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2o.backbones.layers import Resample

from .encoder import Call, Outside, Word, pickled

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    torch.float32: "FloatStorage", torch.float16: "HalfStorage", torch.float64: "DoubleStorage",
    torch.bfloat16: "BFloat16Storage", torch.int64: "LongStorage", torch.bool: "BoolStorage",
}  # fmt: skip


def octets_of(tensor: Tensor) -> bytes:
    return (
        tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else tensor.numpy().tobytes()
    )


def legacy_stream(value: Any, storages: dict[str, bytes], sizes: dict[str, int]) -> bytes:
    """Return a legacy file of torch.save: four pickles, the keys, and each storage after its length."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickled(part, 2) for part in (MAGIC, 1001, system, value, list(storages))]
    return b"".join(parts) + b"".join(struct.pack("<q", sizes[key]) + data for key, data in storages.items())


def storage(tensor: Tensor) -> Call:
    """Return the storage of a tensor as plain pickles hold it: a torch file within the pickle."""
    key = "94123"
    reference = Outside(("storage", Word(f"torch {STORAGES[tensor.dtype]}"), key, "cpu", tensor.numel(), None))
    stream = legacy_stream(reference, {key: octets_of(tensor)}, {key: tensor.numel()})
    return Call("torch.storage _load_from_bytes", (stream,))


def tensor(value: Tensor, place: Any = None) -> Call:
    """Return a tensor; `place` takes the place of its own storage."""
    geometry = (0, tuple(value.shape), tuple(value.contiguous().stride()), False, OrderedDict())
    return Call("torch._utils _rebuild_tensor_v2", (place or storage(value), *geometry))


def parameter(value: Tensor) -> Call:
    return Call("torch._utils _rebuild_parameter", (tensor(value), True, OrderedDict()))


def persistent(class_name: str, state: dict, source: str = "# the source of networks.py\n") -> Call:
    """Return an object that carries its source code."""
    record = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}
    return Call("torch_utils.persistence _reconstruct_persistent_obj", (record,))


def module_state(module: nn.Module, **attributes: Any) -> dict[str, Any]:
    """Return the attributes of a torch module, as both torch 1.12 and 2.14 have them."""
    parts = {name: part_of(part) for name, part in module._modules.items()}
    return {
        "training": False,
        "_parameters": OrderedDict((n, None if p is None else parameter(p)) for n, p in module._parameters.items()),
        "_buffers": OrderedDict((n, None if b is None else tensor(b)) for n, b in module._buffers.items()),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_is_full_backward_hook": None,
        "_forward_hooks": OrderedDict(),
        "_modules": OrderedDict(parts),
        **attributes,
    }


def part_of(module: nn.Module | None) -> Any:
    """Return a part of a network: containers are plain, all others carry arguments and source of their own."""
    if module is None:
        return None
    if isinstance(module, nn.ModuleDict):
        state = module_state(module)
        return Call("torch.nn.modules.container ModuleDict", (), None, state, new=True)
    own = {"_init_args": (), "_init_kwargs": {"skip_scale": np.sqrt(0.5), "init_weight": np.float32(0.1)}}
    extra = (
        {"up": False, "skip_scale": np.sqrt(0.5)} if not isinstance(module, Resample) else {"resample_filter_": [1, 1]}
    )
    return persistent(type(module).__name__, module_state(module, **own, **extra))


def network(
    class_name: str, backbone: nn.Module, settings: dict, buffers: dict | None = None, **attributes: Any
) -> Call:
    """Return a preconditioned network: its arguments, its numbers, and under `model` the backbone."""
    outer = nn.Module()
    outer.model = backbone
    for name, value in (buffers or {}).items():
        outer.register_buffer(name, value)
    numbers = {"sigma_min": 0, "sigma_max": float("inf"), "use_fp16": False, **attributes}
    return persistent(class_name, module_state(outer, _init_args=(), _init_kwargs=settings, **numbers))


def augment_pipe() -> Call:
    state = {
        "p": 0.12,
        "xflip": 1e8,
        "yflip": 1,
        "_init_args": (),
        "_init_kwargs": {"p": 0.12, "xflip": 1e8, "yflip": 1},
    }
    return persistent("AugmentPipe", state, "# augment\n")


def data_set() -> dict[str, Any]:
    return {"class_name": "training.dataset.ImageFolderDataset", "path": "cifar10-32x32.zip", "use_labels": False}


def edm_file(ema: Any, **protocol: Any) -> bytes:
    """Return EDM's file: the network beside what else its training needed."""
    loss = persistent("EDMLoss", {"P_mean": -1.2, "sigma_data": 0.5, "_init_args": (), "_init_kwargs": {}}, "# loss\n")
    content = {"ema": ema, "loss_fn": loss, "augment_pipe": augment_pipe(), "dataset_kwargs": data_set()}
    return pickled(content, **protocol)


def torch_zip(value_of: Any, state: dict[str, Tensor], folder: str = "archive") -> bytes:
    """Return a zip file of torch.save; `value_of` makes the value from the dictionary of its tensors."""
    kinds = {name: Word(f"torch {STORAGES[t.dtype]}") for name, t in state.items()}
    places = {n: Outside(("storage", kinds[n], str(i), "cuda:0", t.numel())) for i, (n, t) in enumerate(state.items())}
    value = value_of({name: tensor(t, places[name]) for name, t in state.items()})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{folder}/data.pkl", pickled(value, 2))
        archive.writestr(f"{folder}/byteorder", "little")
        for index, t in enumerate(state.values()):
            archive.writestr(f"{folder}/data/{index}", octets_of(t))
        archive.writestr(f"{folder}/version", "3\n")
    return file.getvalue()


def torch_legacy(value_of: Any, state: dict[str, Tensor]) -> bytes:
    """Return a legacy file of torch.save."""
    kinds = {name: Word(f"torch {STORAGES[t.dtype]}") for name, t in state.items()}
    places = {
        n: Outside(("storage", kinds[n], f"k{i}", "cuda:0", t.numel(), None)) for i, (n, t) in enumerate(state.items())
    }
    value = value_of({name: tensor(t, places[name]) for name, t in state.items()})
    storages = {f"k{i}": octets_of(t) for i, t in enumerate(state.values())}
    return legacy_stream(value, storages, {f"k{i}": t.numel() for i, t in enumerate(state.values())})
