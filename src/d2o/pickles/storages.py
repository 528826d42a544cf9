"""The numbers of a torch file: where each tensor lies, checked before memory is taken, and read once when wanted."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d2o.errors import UnsupportedCheckpointError

from .machine import OUTSIDE, Name, Names, Node, Program, run
from .source import Source, Span

STORAGE_NAMES: Names = {
    ("torch", f"{kind}Storage"): word
    for kind, word in {
        "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Double": "float64", "Bool": "bool",
        "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
        "ComplexFloat": "complex64", "ComplexDouble": "complex128", "QInt8": "qint8", "QUInt8": "quint8",
        "QInt32": "qint32",
    }.items()
} | {("torch.storage", "UntypedStorage"): "uint8"}  # fmt: skip
UNREAD = {
    "_rebuild_tensor_v3": "numbers of a type that has no storage of its own, such as 8-bit floats",
    "_rebuild_qtensor": "quantised tensors",
    "_rebuild_sparse_tensor": "sparse tensors",
    "_rebuild_nested_tensor": "nested tensors",
}
"""torch's functions for tensors that are not read -> what an error calls them."""
TYPES = [name for name, value in vars(torch).items() if isinstance(value, torch.dtype)]
DTYPES = {word: getattr(torch, word) for word in STORAGE_NAMES.values()}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MOST_DIMENSIONS = 16
MOST_PARTS = 100_000
References = dict[Node, tuple[str, torch.dtype, int]]
"""Of every reference to a storage: its key, type, and how many numbers it has."""


@dataclass(frozen=True)
class Storage:
    """Numbers of one type in a row, still in the file: `content` holds them from its byte `start` on."""

    dtype: torch.dtype
    count: int
    source: Source
    content: Any
    start: int


@dataclass(frozen=True)
class Stored:
    """A tensor that is still in the file; its geometry lies within its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def read(self) -> Tensor:
        storage = self.storage
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=storage.dtype)
        raw = torch.uint8 if storage.dtype == torch.bool else storage.dtype  # a bool must be exactly 0 or 1
        flat = torch.empty(count_span(self.shape, self.stride), dtype=raw)
        source = open_bytes(storage.source, storage.content)
        source.file.seek(source.position + storage.start + self.offset * raw.itemsize)
        if source.file.readinto(flat.view(torch.uint8).numpy()) != flat.numel() * raw.itemsize:  # type: ignore[attr-defined]
            raise source.malformed("it became shorter while it was read")
        tensor = flat.as_strided(self.shape, self.stride).contiguous()
        return tensor != 0 if storage.dtype == torch.bool else tensor


def count_span(shape: Iterable[int], stride: Iterable[int]) -> int:
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def open_bytes(source: Source, content: Any) -> Source:
    """Return the bytes that a value of a pickle stands for: bytes, or (protocol 2) a text of latin-1 characters."""
    text: Any = None
    match content:
        case Span(text=False):
            return source.part(content.start, content.length)
        case Node("bytes", ()):
            text = ""
        case Node("bytes", (text,) | (text, "latin1" | "latin-1")):
            pass
    try:
        if isinstance(text, Span) and text.text:
            text = source.part(text.start, text.length).take(text.length).decode()
        decoded = text.encode("latin-1") if isinstance(text, str) else None
    except UnicodeError:
        decoded = None
    if decoded is None:
        raise source.malformed("something else stands where bytes should")
    return source.nested(decoded)


def read_all(state: Mapping[str, Stored], source: Source, meta: bool = False) -> dict[str, Tensor]:
    """Read all tensors of a state dict, or (`meta`) only their types and shapes."""
    if meta:
        return {n: torch.empty(t.shape, dtype=t.storage.dtype, device="meta") for n, t in state.items()}
    if sum(tensor.bytes for tensor in state.values()) > source.end:
        raise source.malformed("its tensors are larger than the file")
    return {name: tensor.read() for name, tensor in state.items()}


def find_tensor(source: Source, value: Any, storages: Mapping[Node, Storage]) -> Stored:
    """Return the tensor that a node describes, after checking that it lies within its storage."""
    match value:
        case Node("parameter", (inner, *_)):
            value = inner
    match value:
        case Node("attributed", (Name("tensor"), Name("ignored"), tuple(arguments), _)) | Node("tensor", arguments) if (
            len(arguments) in (6, 7)
        ):
            place, offset, shape, stride = arguments[:4]
        case Node(word) if word in UNREAD.values():
            raise UnsupportedCheckpointError(f"{source.path} contains {word}: save its weights as float32 tensors.")
        case _:
            raise source.malformed("something else stands where a tensor should")
    storage = storages.get(place) if isinstance(place, Node) else None
    if storage is None:
        raise source.malformed("a tensor in it has no storage")
    sizes_fit = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= MOST_DIMENSIONS
    if not (sizes_fit and all(type(n) is int and 0 <= n < 2**48 for n in (offset, *shape, *stride))):
        raise source.malformed("a tensor in it has no proper shape")
    needed = 0 if 0 in shape else offset + count_span(shape, stride)
    if needed > storage.count or math.prod(shape) > storage.count:
        raise source.malformed(f"a tensor of shape {list(shape)[:8]} does not lie within its {storage.count:,} numbers")
    return Stored(storage, offset, shape, stride)


def read_legacy(source: Source, content: Any, names: Names) -> tuple[Program, dict[Node, Storage]]:
    """Read a legacy torch file up to its numbers: pickles of magic, protocol, system, value and keys.

    `content` is the value of `source` that stands for its bytes: the file may itself lie within a pickle. Returns the
    value's program, and where the storages that it refers to lie.
    """
    whole = open_bytes(source, content)
    begin = whole.position
    magic, protocol, system = (run(whole, {}).value for _ in range(3))
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL:
        raise whole.malformed("it is not a stream that torch writes")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise whole.malformed("it was not written on a little-endian machine")
    program = run(whole, {**STORAGE_NAMES, **names}, persistent=True)
    keys = run(whole, {}).value
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(keys) > MOST_PARTS:
        raise whole.malformed("it has no list of storages")
    references = read_references(whole, program)
    described = {key: (dtype, count) for key, dtype, count in references.values()}
    found = {}
    for key in keys:
        if key not in described or key in found:
            raise whole.malformed("its list of storages names a wrong one")
        dtype, count = described[key]
        if whole.number(8) != count:
            raise whole.malformed("a storage in it is not as long as it says")
        span = whole.skip(count * dtype.itemsize)
        found[key] = Storage(dtype, count, source, content, span.start - begin)
    whole.expect_end()
    return program, match_storages(whole, references, found)


def read_references(source: Source, program: Program) -> References:
    found = {}
    for node in program.nodes:
        if node.word == OUTSIDE:
            match node.arguments:
                case ("storage", Name(word), str(key), str(), int(count), *view) if (
                    word in DTYPES and view in ([], [None]) and 0 <= count < 2**48
                ):
                    found[node] = (key, DTYPES[word], count)
                case _:
                    raise source.malformed("it refers to something that is no storage")
    return found


def match_storages(source: Source, references: References, found: Mapping[str, Storage]) -> dict[Node, Storage]:
    """Return the storage of every reference; one that the file lacks, or of another type, is an error."""
    for key, dtype, count in references.values():
        storage = found.get(key)
        if storage is None or (storage.dtype, storage.count) != (dtype, count):
            raise source.malformed("it refers to a storage that it does not contain")
    return {node: found[key] for node, (key, _, _) in references.items()}
