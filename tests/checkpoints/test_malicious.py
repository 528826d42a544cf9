"""Files that want more than to be read: nothing runs, nothing is imported, little memory is taken.

Every row would run code, change functions or take endless memory in a loader that follows pickle's own rules.
"""

import io
import os
import resource
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._utils import _rebuild_tensor_v2

import d2o
from d2o.checkpoints import CheckpointError, inspect
from d2o.checkpoints.readers import diffusers_folder, dit, nvidia, openai_unet
from d2o.errors import UnsafeCheckpointError, UnsupportedCheckpointError

from . import honest
from .encoder import Call, Encoder, Outside, Word, pickled
from .test_edm import SONG, network
from .test_edm2 import KWARGS

READERS = (diffusers_folder, dit, nvidia, openai_unet)
"""Imported before any file is read, so that a test can say that reading it imports nothing."""
TENSOR = torch.arange(4.0)
GEOMETRY = (False, {})


def reading(value: Any) -> bytes:
    """Return EDM's file whose network has one tensor: `value`."""
    state = {"_parameters": {"weight": value}, "_buffers": {}, "_modules": {}, "_init_args": (), "_init_kwargs": SONG}
    return honest.edm_file(honest.persistent("EDMPrecond", state))


def shaped(offset: int, shape: tuple, stride: tuple, storage: Any = None) -> bytes:
    """Return EDM's file whose tensor has a geometry of its own, over 4 numbers."""
    arguments = (storage or honest.storage(TENSOR), offset, shape, stride, *GEOMETRY)
    return reading(Call("torch._utils _rebuild_tensor_v2", arguments))


def system(canary: Path) -> Call:
    return Call("posix system", (f"touch {canary}",))


def nested(stream: bytes) -> bytes:
    """Return EDM's file, one of whose storages is another stream."""
    return shaped(0, (4,), (1,), Call("torch.storage _load_from_bytes", (stream,)))


def zip_stream(canary: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(system(canary), 2))
    return file.getvalue()


def raw(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def dotted(module: str, name: str, canary: Path) -> bytes:
    return raw(text(module), text(name), b"\x93", text(f"touch {canary}"), b"\x85R")


def laughs(levels: int, first: int) -> bytes:
    """Return a value that stands for 2 ** levels others, each twice the one before; `first` is free in the memo."""
    body = b"]\x94"
    for level in range(first, first + levels):
        body += b"]\x94(" + b"h" + bytes([level]) + b"h" + bytes([level]) + b"e"
    return body


def with_settings(body: Callable[[int], bytes]) -> bytes:
    """Return EDM's file, whose network was made with what `body` leaves; it is told the next number of the memo."""
    encoder, marker = Encoder(4), "settings to be"
    state = {"_parameters": {}, "_buffers": {}, "_modules": {}, "_init_args": (), "_init_kwargs": {"a": marker}}
    encoder.value({"ema": honest.persistent("EDMPrecond", state)})
    before, after = bytes(encoder.out).split(b"\x8c" + bytes([len(marker)]) + marker.encode() + b"\x94")
    return before + body(before.count(b"\x94")) + after + b"."


MALICIOUS = {
    "os.system by reduce": lambda c: pickled({"ema": system(c)}),
    "os.system by reduce, protocol 2": lambda c: pickled({"ema": system(c)}, 2),
    "os.system beside the network": lambda c: pickled({"ema": None, "loss_fn": system(c)}),
    "os.system as state": lambda c: reading(Call("collections OrderedDict", (), None, system(c))),
    "eval": lambda c: pickled(Call("builtins eval", (f"open({str(c)!r}, 'w')",))),
    "getattr": lambda c: pickled(Call("builtins getattr", (Word("os system"), "x", str(c)))),
    "nested legacy stream": lambda c: nested(
        b"".join(pickled(part, 2) for part in (honest.MAGIC, 1001, {"little_endian": True}, system(c), []))
    ),
    "nested magic number": lambda c: nested(pickled(system(c), 2)),
    "nested zip stream": lambda c: nested(zip_stream(c)),
    "nested stream in an entry that is not read": lambda c: pickled(
        {"ema": None, "dataset_kwargs": {"a": Call("torch.storage _load_from_bytes", (pickled(system(c), 2),))}}
    ),
    "dotted name": lambda c: dotted("torch", "serialization.os.system", c),
    "dotted module": lambda c: dotted("torch.serialization", "os.system", c),
    "dotted name of the table": lambda c: dotted("torch._utils", "_rebuild_tensor_v2.__globals__", c),
    "torch.load": lambda c: pickled(Call("torch load", (str(c),))),
    "build on a function": lambda _: raw(
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"}", text("__defaults__"), b"K\x01\x85s", b"b"
    ),
    "build on a class": lambda _: raw(b"ccollections\nOrderedDict\n", b"}", text("x"), b"K\x01s", b"b"),
    "build twice": lambda _: raw(b"ccollections\nOrderedDict\n", b")R", b"}", text("x"), b"K\x01sb", b"}b"),
    "build on a dictionary": lambda _: raw(b"}}b"),
    "inst": lambda c: b"\x80\x02(" + text(f"touch {c}") + b"iposix\nsystem\n.",
    "obj": lambda c: b"\x80\x02(cposix\nsystem\n" + text(f"touch {c}") + b"o.",
    "inst of protocol 0": lambda c: f"(S'touch {c}'\niposix\nsystem\n.".encode(),
    "newobj_ex": lambda _: raw(b"ccollections\nOrderedDict\n)}\x92"),
    "extension 1": lambda _: raw(b"\x82\x01"),
    "extension 2": lambda _: raw(b"\x83\x01\x00"),
    "extension 4": lambda _: raw(b"\x84\x01\x00\x00\x00"),
    "persistent reference": lambda _: raw(text("x"), b"Q"),
    "persistent reference in text": lambda _: raw(b"Pposix.system\n"),
    "memo index 120 million": lambda _: b"\x80\x02]r" + struct.pack("<I", 120_000_000) + b".",
    "memo that was never filled": lambda _: raw(b"h\x07"),
    "bytes of 2^60": lambda _: raw(b"\x8e" + struct.pack("<Q", 2**60)),
    "text of 2^60": lambda _: raw(b"\x8d" + struct.pack("<Q", 2**60)),
    "bytearray of 2^60": lambda _: raw(b"\x96" + struct.pack("<Q", 2**60)),
    "frame of 2^60": lambda _: raw(b"\x95" + struct.pack("<Q", 2**60)),
    "integer of 2 GB": lambda _: raw(b"\x8b" + struct.pack("<i", 2**31 - 1)),
    "tensor beyond its storage": lambda _: shaped(0, (1000,), (1,)),
    "tensor beyond its storage by offset": lambda _: shaped(2, (4,), (1,)),
    "tensor beyond its storage by stride": lambda _: shaped(0, (2, 2), (3, 1)),
    "tensor of 2^40 with stride 0": lambda _: shaped(0, (2**40,), (0,)),
    "tensor of 2^62 elements": lambda _: shaped(0, (2**31, 2**31), (0, 0)),
    "tensor of negative offset": lambda _: shaped(-4, (4,), (1,)),
    "tensor of negative stride": lambda _: shaped(3, (4,), (-1,)),
    "tensor of negative size": lambda _: shaped(0, (-1,), (1,)),
    "tensor of a thousand dimensions": lambda _: shaped(0, (1,) * 1000, (1,) * 1000),
    "tensor of text sizes": lambda _: shaped(0, ("4",), (1,)),
    "storage longer than the file": lambda _: nested(
        honest.legacy_stream(
            Outside(("storage", Word("torch FloatStorage"), "0", "cpu", 2**40, None)), {"0": b""}, {"0": 2**40}
        )
    ),
    "storage of another length": lambda _: nested(
        honest.legacy_stream(
            Outside(("storage", Word("torch FloatStorage"), "0", "cpu", 4, None)), {"0": bytes(400)}, {"0": 100}
        )
    ),
    "storage with a view": lambda _: nested(
        honest.legacy_stream(
            Outside(("storage", Word("torch FloatStorage"), "0", "cpu", 4, ("1", 0, 4))), {"0": bytes(16)}, {"0": 4}
        )
    ),
    "lists 200,000 deep": lambda _: raw(b"]" * 200_000 + b"a" * 199_999),
    "tuples 200,000 deep": lambda _: raw(b")" + b"\x85" * 200_000),
    "marks 200,000 deep": lambda _: raw(b"(" * 200_000 + b"t" * 200_000),
    "tuples 200,000 deep as settings": lambda _: with_settings(lambda _: b")" + b"\x85" * 200_000),
    "settings that hold themselves": lambda _: with_settings(lambda first: b"]\x94h" + bytes([first]) + b"a"),
    "2^60 laughs as settings": lambda _: with_settings(lambda first: laughs(60, first)),
    "modules that hold themselves": lambda _: raw(
        b"}", text("ema"), b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n", b"}\x94(",
        text("type"), text("class"), text("version"), b"K\x06", text("module_src"), text(""), text("class_name"),
        text("EDMPrecond"), text("state"), b"}(", text("_init_args"), b")", text("_init_kwargs"), b"}",
        text("_modules"), b"}", text("model"), b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n",
        b"h\x00\x85Rs", b"uu\x85Rs",
    ),
    "a million sets": lambda _: raw(b"(" + b"\x8f" * 990_000 + b"t"),
    "tensor with attributes beyond its storage": lambda _: reading(
        Call(
            "torch._tensor _rebuild_from_type_v2",
            (
                Word("torch._utils _rebuild_tensor_v2"), Word("torch Tensor"),
                (honest.storage(TENSOR), 0, (2**40,), (0,), *GEOMETRY), {},
            ),
        )
    ),
    "tensor made by another function": lambda _: reading(
        Call("torch._tensor _rebuild_from_type_v2", (Word("builtins set"), Word("torch Tensor"), ([],), {}))
    ),
    "class beside its source": lambda c: honest.legacy_stream(
        Call("collections OrderedDict", (), {"a": Outside(("module", Word("os system"), "", f"touch {c}"))}), {}, {}
    ),
    "an endless number as the scale of latents": lambda _: pickled(
        {
            "ema": honest.persistent("Precond", {"_init_args": (), "_init_kwargs": KWARGS}),
            "encoder": honest.persistent("StabilityVAEEncoder", {"scale": 2**2000, "bias": 2**2000}),
        }
    ),
    "a million instructions": lambda _: raw(b"N0" * 600_000 + b"N"),
    "keys that are not texts": lambda _: raw(b"}", b"G" + bytes(8), b"Ns"),
    "a list as a key": lambda _: raw(b"}]Ns"),
    "nothing left": lambda _: b"\x80\x04.",
    "a mark that is missing": lambda _: raw(b"t"),
    "protocol 77": lambda _: b"\x80\x4d.",
    "torch zip with os.system": lambda c: zip_stream(c),
    "torch legacy with os.system": lambda c: honest.legacy_stream(system(c), {}, {}),
    "torch zip with a compressed storage": lambda _: compressed(),
}  # fmt: skip


def compressed() -> bytes:
    """Return a torch file whose one storage is 100 MB of zeros, packed into 100 KB."""
    file = io.BytesIO()
    reference = Outside(("storage", Word("torch FloatStorage"), "0", "cpu", 25_000_000))
    value = Call("torch._utils _rebuild_tensor_v2", (reference, 0, (25_000_000,), (1,), *GEOMETRY))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled({"weight": value}, 2))
        archive.writestr("archive/data/0", bytes(100_000_000))
    return file.getvalue()


@pytest.mark.parametrize("use", [d2o.load, inspect], ids=["load", "inspect"])
@pytest.mark.parametrize("name", MALICIOUS)
def test_nothing_runs(tmp_path, name, use):
    canary, path = tmp_path / "canary", tmp_path / "model.pkl"
    path.write_bytes(MALICIOUS[name](canary))
    modules, directory = set(sys.modules), set(tmp_path.iterdir())
    function = _rebuild_tensor_v2
    before, memory = function.__defaults__, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"model\.pkl") as error:
        use(path)
    assert len(str(error.value)) < 1000
    assert not canary.exists() and set(tmp_path.iterdir()) == directory
    assert set(sys.modules) == modules
    assert function.__defaults__ is before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 250_000  # kilobytes


def test_the_error_says_what_the_file_wanted(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(MALICIOUS["os.system by reduce"](tmp_path / "canary"))
    with pytest.raises(UnsafeCheckpointError, match=r"posix\.system"):
        d2o.load(path)
    path.write_bytes(MALICIOUS["inst"](tmp_path / "canary"))
    with pytest.raises(UnsafeCheckpointError, match="INST"):
        d2o.load(path)


def test_code_in_the_source_is_never_run(tmp_path):
    canary = tmp_path / "canary"
    made = network(SONG)
    settings = {"_init_args": (), "_init_kwargs": SONG}
    outer = torch.nn.Module()
    outer.model = made
    evil = f"import os\nos.system('touch {canary}')\nraise SystemExit\n"
    path = tmp_path / "model.pkl"
    with pytest.warns(UserWarning, match="source"):  # what torch itself imports at its first use
        path.write_bytes(honest.edm_file(honest.network("EDMPrecond", made, SONG)))
        d2o.load(path)
    path.write_bytes(honest.edm_file(honest.persistent("EDMPrecond", honest.module_state(outer, **settings), evil)))
    modules = set(sys.modules)
    with pytest.warns(UserWarning, match="source"):
        denoiser = d2o.load(path)
    assert not canary.exists() and set(sys.modules) == modules
    assert not {"torch_utils", "dnnlib", "training.networks"} & modules
    assert all(torch.equal(t, denoiser.backbone.state_dict()[name]) for name, t in made.state_dict().items())


def test_many_tensors_may_not_share_one_large_storage(tmp_path):
    """Each lies within the storage, but together they would take far more memory than the file has bytes."""
    storage = honest.storage(torch.zeros(100_000))
    value = Call("torch._utils _rebuild_tensor_v2", (storage, 0, (100_000,), (1,), *GEOMETRY))
    parameters = {f"weight{index}": value for index in range(1000)}
    state = {"_parameters": parameters, "_buffers": {}, "_modules": {}, "_init_args": (), "_init_kwargs": SONG}
    path = tmp_path / "model.pkl"
    path.write_bytes(honest.edm_file(honest.persistent("EDMPrecond", state)))
    assert path.stat().st_size < 500_000
    with pytest.raises(CheckpointError, match="larger than the file"):
        d2o.load(path)


def test_settings_may_not_name_python(tmp_path):
    for name in ("posix.system", "__import__", "SongUNet.__init__"):
        path = tmp_path / "model.pkl"
        path.write_bytes(honest.edm_file(honest.network("EDMPrecond", network(SONG), SONG | {"model_type": name})))
        with pytest.raises(UnsupportedCheckpointError, match="model_type"):
            d2o.load(path)


def test_a_file_s_words_do_not_steer_the_terminal(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(honest.edm_file(honest.persistent("\x1b[31mEvil\n\x07\u202e", {})))
    with pytest.raises(UnsupportedCheckpointError, match=r"\\x1b\[31mEvil\\n\\x07\\u202e") as error:
        d2o.load(path)
    assert str(error.value).isprintable()


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(CheckpointError, match=str(path)):
            d2o.load(path)
