"""Honest checkpoints: NVIDIA's pickles and files of torch.save, written instruction by instruction.

Nothing here is pickled by Python: the same bytes come from every version of it, of torch and of numpy.
"""

import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2o.backbones.layers import Resample

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    torch.float32: "FloatStorage", torch.float16: "HalfStorage", torch.float64: "DoubleStorage",
    torch.bfloat16: "BFloat16Storage", torch.int64: "LongStorage", torch.bool: "BoolStorage",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A call that the file asks for: `new` for a class that is made without __init__; then items, then state."""

    name: str
    arguments: tuple = ()
    items: dict | None = None
    state: Any = None
    new: bool = False


@dataclass(frozen=True)
class Word:
    """A global name, as "module name"."""

    name: str


@dataclass(frozen=True)
class Outside:
    """A reference to a storage outside the pickle."""

    arguments: tuple


class Encoder:
    """Write values as a pickle of one protocol; names and sources that come again are taken from the memo."""

    def __init__(self, protocol: int = 4, numpy_core: str = "numpy._core") -> None:
        self.protocol, self.numpy_core = protocol, numpy_core
        self.out = bytearray(b"\x80" + bytes([protocol]))
        self.memo: dict[Any, int] = {}
        self.count = 0

    def done(self) -> bytes:
        body = bytes(self.out[2:]) + b"."
        if self.protocol < 4:
            return bytes(self.out[:2]) + body
        return bytes(self.out[:2]) + b"\x95" + struct.pack("<Q", len(body)) + body

    def remember(self, key: Any = None) -> None:
        if key is not None:
            self.memo[key] = self.count
        if self.protocol >= 4:
            self.out += b"\x94"
        else:
            self.out += b"q" + bytes([self.count]) if self.count < 256 else b"r" + struct.pack("<I", self.count)
        self.count += 1

    def recall(self, key: Any) -> bool:
        index = self.memo.get(key)
        if index is not None:
            self.out += b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)
        return index is not None

    def text(self, value: str) -> None:
        if self.recall(("text", value)):
            return
        data = value.encode()
        short = self.protocol >= 4 and len(data) < 256
        self.out += (b"\x8c" + bytes([len(data)]) if short else b"X" + struct.pack("<I", len(data))) + data
        self.remember(("text", value))

    def octets(self, value: bytes) -> None:
        if self.protocol < 3:
            self.value(Call("_codecs encode", (value.decode("latin-1"), "latin1")))
            return
        self.out += b"C" + bytes([len(value)]) if len(value) < 256 else b"B" + struct.pack("<I", len(value))
        self.out += value
        self.remember()

    def number(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += b"K" + bytes([value])
        elif 0 <= value < 65536:
            self.out += b"M" + struct.pack("<H", value)
        elif -(2**31) <= value < 2**31:
            self.out += b"J" + struct.pack("<i", value)
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out += b"\x8a" + bytes([len(data)]) + data

    def word(self, name: str) -> None:
        if self.recall(("name", name)):
            return
        if self.protocol >= 4:
            for part in name.split(" "):
                self.text(part)
            self.out += b"\x93"
        else:
            self.out += b"c" + name.replace(" ", "\n").encode() + b"\n"
        self.remember(("name", name))

    def tuple(self, values: tuple) -> None:
        marked = len(values) > 3
        self.out += b"(" if marked else b""
        for value in values:
            self.value(value)
        self.out += b")" if not values else b"t" if marked else bytes([0x84 + len(values)])
        if values:
            self.remember()

    def set_items(self, items: dict) -> None:
        if items:
            self.out += b"("
            for key, value in items.items():
                self.value(key)
                self.value(value)
            self.out += b"u"

    def call(self, call: Call) -> None:
        self.word(call.name)
        self.tuple(call.arguments)
        self.out += b"\x81" if call.new else b"R"
        self.remember()
        self.set_items(call.items or {})
        if call.state is not None:
            self.value(call.state)
            self.out += b"b"

    def value(self, value: Any) -> None:
        """Write any value."""
        if value is None or isinstance(value, bool):
            self.out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif isinstance(value, np.generic | np.ndarray):
            self.call(self.from_numpy(value))
        elif isinstance(value, int):
            self.number(value)
        elif isinstance(value, float):
            self.out += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            self.text(value)
        elif isinstance(value, bytes):
            self.octets(value)
        elif isinstance(value, tuple):
            self.tuple(value)
        elif isinstance(value, list):
            self.out += b"]"
            self.remember()
            if value:
                self.out += b"("
                for item in value:
                    self.value(item)
                self.out += b"e"
        elif isinstance(value, set):
            if self.protocol < 4:
                self.call(Call("__builtin__ set", (sorted(value),)))
            else:
                self.out += b"\x8f"
                self.remember()
                if value:
                    self.out += b"("
                    for item in sorted(value):
                        self.value(item)
                    self.out += b"\x90"
        elif isinstance(value, OrderedDict):
            self.call(Call("collections OrderedDict", (), dict(value)))
        elif isinstance(value, dict):
            self.out += b"}"
            self.remember()
            self.set_items(value)
        elif isinstance(value, Word):
            self.word(value.name)
        elif isinstance(value, Outside):
            self.tuple(value.arguments)
            self.out += b"Q"
        else:
            assert isinstance(value, Call), value
            self.call(value)

    def from_numpy(self, value: np.generic | np.ndarray) -> Call:
        name = value.dtype.str[1:]
        dtype = Call("numpy dtype", (name, False, True), None, (3, "<", None, None, None, -1, -1, 0))
        if isinstance(value, np.generic):
            return Call(f"{self.numpy_core}.multiarray scalar", (dtype, value.tobytes()))
        if self.protocol == 5:
            return Call(f"{self.numpy_core}.numeric _frombuffer", (value.tobytes(), dtype, value.shape, "C"))
        state = (1, value.shape, dtype, False, value.tobytes())
        return Call(f"{self.numpy_core}.multiarray _reconstruct", (Word("numpy ndarray"), (0,), b"b"), None, state)


def pickled(value: Any, protocol: int = 4, numpy_core: str = "numpy._core") -> bytes:
    """Return a value as a pickle."""
    encoder = Encoder(protocol, numpy_core)
    encoder.value(value)
    return encoder.done()


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
    import io
    import zipfile

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
