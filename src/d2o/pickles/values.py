"""What the inert records of a pickle mean as plain data: numbers, texts, lists and dictionaries, never more."""

import math
from typing import Any

import numpy as np

from d2o.errors import UnsupportedCheckpointError

from .machine import Names, Node
from .source import Source
from .storages import TYPES, UNREAD, open_bytes

NAMES: Names = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): "persistent",
    ("torch.storage", "_load_from_bytes"): "storage",
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("torch._utils", "_rebuild_parameter"): "parameter",
    ("torch._utils", "_rebuild_parameter_with_state"): "parameter",
    ("torch._tensor", "_rebuild_from_type_v2"): "attributed",
    **{("torch._utils", name): word for name, word in UNREAD.items()},
    **{("torch", name): "ignored" for name in ("Tensor", "Size", "device", *TYPES)},
    **{("torch", name): "ignored" for name in ("per_tensor_affine", "per_channel_affine")},
    ("torch.serialization", "_get_layout"): "ignored",
    **{("torch.nn.parameter", name): "ignored" for name in ("Parameter", "Buffer")},
    **{("torch.nn.modules.container", name): "modules" for name in ("ModuleDict", "ModuleList", "Sequential")},
    ("collections", "OrderedDict"): "dictionary",
    ("dnnlib.util", "EasyDict"): "dictionary",
    ("argparse", "Namespace"): "namespace",
    ("numpy", "dtype"): "dtype",
    ("numpy", "ndarray"): "ndarray",
    **{(f"numpy.{core}.multiarray", "scalar"): "scalar" for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): "array" for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "buffer" for core in ("core", "_core")},
    **{(module, name): name for module in ("__builtin__", "builtins") for name in ("set", "bytes")},
    ("_codecs", "encode"): "bytes",
}
"""All names that a checkpoint may hold, as versions of Python, torch and numpy spell them, and our words for them."""

NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")
"""numpy's types of numbers that may be described."""
MOST_LEVELS = 16
LONGEST_ARRAY = 4096
ARRAYS = ("scalar", "array", "buffer")


def to_plain(source: Source, value: Any, level: int = 0) -> Any:
    """Return a value as JSON-able data: numpy numbers become Python's, tuples and sets lists; else it is an error.

    Each visit is paid for: shared values in a small file can stand for endlessly many.
    """
    source.spend("values", 1 + (len(value) // 100 if isinstance(value, str) else 0))
    if level > MOST_LEVELS:
        raise source.unsafe(f"nests what describes its network more than {MOST_LEVELS} deep")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [to_plain(source, item, level + 1) for item in value]
    if isinstance(value, set | frozenset):
        source.spend("values", len(value))
        return sorted(map(str, value))
    if (entries := get_items(value)) is not None:
        return {str(key): to_plain(source, item, level + 1) for key, item in entries.items()}
    match value:
        case Node(word) if word in ARRAYS:
            return read_numbers(source, value)
        case Node("set", (content,)):
            return to_plain(source, content, level + 1)
    kind = value.word if isinstance(value, Node) else type(value).__name__.lower()
    raise UnsupportedCheckpointError(f"{source.path} describes its network by a {kind} where plain data should stand.")


def get_items(value: Any) -> dict[Any, Any] | None:
    """Return the entries of any kind of dictionary, or None for something else."""
    if isinstance(value, Node):
        return value.items if value.word == "dictionary" and not value.arguments else None
    return value if isinstance(value, dict) else None


def get_words(value: Any) -> set[str]:
    match value:
        case Node("set", (content,)):
            value = content
    return {word for word in value if isinstance(word, str)} if isinstance(value, list | set | frozenset) else set()


def read_numbers(source: Source, value: Node) -> Any:
    shape: Any
    match value.word, value.arguments, value.state:
        case "scalar", (dtype, content), _:
            shape, order = (), "C"
        case "array", _, (1, tuple(shape), dtype, bool(columns_first), content):
            order = "F" if columns_first else "C"
        case "buffer", (content, dtype, tuple(shape), order), None:
            pass
        case _:
            raise source.malformed("a numpy array in it is incomplete")
    match dtype:
        case Node("dtype", (str(name), *_), state=(_, "<" | "|", *_)) if name in NUMBERS:
            kind = np.dtype(f"<{name}")
        case _:
            raise source.malformed("a numpy number in it has an unknown type")
    if len(shape) > 4 or not all(type(n) is int and 0 <= n <= LONGEST_ARRAY for n in shape):
        raise source.malformed("a numpy array in it has no proper shape")
    count, found = math.prod(shape), open_bytes(source, content)
    source.spend("values", min(count, LONGEST_ARRAY))
    if count > LONGEST_ARRAY or found.left != count * kind.itemsize:
        raise source.malformed("a numpy array in it has the wrong length")
    return np.frombuffer(found.take(found.left), kind).reshape(shape, order="F" if order == "F" else "C").tolist()
