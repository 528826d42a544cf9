"""What the inert records of a pickle mean as plain data: numbers, texts, lists and dictionaries, never more."""

import math
import struct
from typing import Any

import numpy as np

from d2o.errors import UnsupportedCheckpointError

from .machine import Names, Node
from .source import Source
from .storages import DTYPES, octets

NAMES: Names = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): "persistent",
    ("torch.storage", "_load_from_bytes"): "storage",
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("torch._utils", "_rebuild_parameter"): "parameter",
    ("torch._utils", "_rebuild_parameter_with_state"): "parameter",
    ("torch._tensor", "_rebuild_from_type_v2"): "attributed",
    **{("torch", name): "ignored" for name in ("Tensor", "Size", "device", *DTYPES)},
    **{("torch.nn.parameter", name): "ignored" for name in ("Parameter", "Buffer")},
    **{("torch.nn.modules.container", name): "modules" for name in ("ModuleDict", "ModuleList", "Sequential")},
    ("collections", "OrderedDict"): "dictionary",
    ("dnnlib.util", "EasyDict"): "dictionary",
    ("argparse", "Namespace"): "namespace",
    ("numpy", "dtype"): "dtype",
    ("numpy", "ndarray"): "ndarray",
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy.core.numeric", "_frombuffer"): "buffer",
    ("numpy._core.numeric", "_frombuffer"): "buffer",
    ("__builtin__", "set"): "set",
    ("builtins", "set"): "set",
    ("__builtin__", "bytes"): "bytes",
    ("builtins", "bytes"): "bytes",
    ("_codecs", "encode"): "bytes",
}
"""All names that a checkpoint may hold, as versions of Python, torch and numpy spell them, and our words for them."""

NUMBERS = {"f2": "<e", "f4": "<f", "f8": "<d", "i1": "<b", "i2": "<h", "i4": "<i", "i8": "<q", "u1": "<B", "b1": "<?"}
"""numpy's types -> how their bytes are read."""
MOST_VALUES = 10_000
MOST_LEVELS = 16
LONGEST_ARRAY = 4096


class Budget:
    """How many values may still be looked at: shared ones in a small file can stand for endlessly many."""

    def __init__(self, source: Source) -> None:
        self.source, self.left = source, MOST_VALUES

    def spend(self, level: int) -> None:
        self.left -= 1
        if self.left < 0 or level > MOST_LEVELS:
            raise UnsupportedCheckpointError(
                f"{self.source.path} describes its network by more than {MOST_VALUES:,} values or nests them more "
                f"than {MOST_LEVELS} deep; no real network does."
            )


def plain(source: Source, value: Any, budget: Budget | None = None, level: int = 0) -> Any:
    """Return a value as JSON-able data: numpy numbers become Python's, tuples and sets lists; else it is an error."""
    budget = budget or Budget(source)
    budget.spend(level)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(source, item, budget, level + 1) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if (entries := items(value)) is not None:
        return {str(key): plain(source, item, budget, level + 1) for key, item in entries.items()}
    if isinstance(value, Node) and value.word == "scalar":
        return scalar(source, value)
    if isinstance(value, Node) and value.word in ("array", "buffer"):
        return array(source, value)
    if isinstance(value, Node) and value.word == "set" and len(value.arguments) == 1:
        return plain(source, value.arguments[0], budget, level + 1)
    kind = value.word if isinstance(value, Node) else type(value).__name__.lower()
    raise UnsupportedCheckpointError(f"{source.path} describes its network by a {kind} where plain data should stand.")


def items(value: Any) -> dict[Any, Any] | None:
    """Return the entries of any kind of dictionary, or None for something else."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Node) and value.word == "dictionary" and not value.arguments:
        return value.items
    return None


def words(value: Any) -> set[str]:
    """Return the texts of any kind of set; nothing for something else."""
    if isinstance(value, Node) and value.word == "set" and len(value.arguments) == 1:
        value = value.arguments[0]
    return {word for word in value if isinstance(word, str)} if isinstance(value, list | set | frozenset) else set()


def number_type(source: Source, value: Any) -> str:
    """Return the name of a numpy type, little-endian or of one byte."""
    if isinstance(value, Node) and value.word == "dtype" and value.arguments and isinstance(value.state, tuple):
        name, order = value.arguments[0], value.state[1:2]
        if isinstance(name, str) and name in NUMBERS and order in (("<",), ("|",)):
            return name
    raise source.malformed("a numpy number in it has an unknown type")


def scalar(source: Source, value: Node) -> int | float | bool:
    """Return a numpy number as Python's."""
    if len(value.arguments) != 2:
        raise source.malformed("a numpy number in it is incomplete")
    form = NUMBERS[number_type(source, value.arguments[0])]
    content = octets(source, value.arguments[1])
    if content.end - content.position != struct.calcsize(form):
        raise source.malformed("a numpy number in it has the wrong length")
    return struct.unpack(form, content.take(struct.calcsize(form)))[0]


def array(source: Source, value: Node) -> list[Any]:
    """Return a small numpy array as nested lists of numbers."""
    match value.word, value.arguments, value.state:
        case "array", _, (1, tuple(shape), dtype, bool(columns_first), content):
            pass
        case "buffer", (content, dtype, tuple(shape), order), None:
            columns_first = order == "F"
        case _:
            raise source.malformed("a numpy array in it is incomplete")
    name = number_type(source, dtype)
    if len(shape) > 4 or not all(type(n) is int and 0 <= n <= LONGEST_ARRAY for n in shape):
        raise source.malformed("a numpy array in it has no proper shape")
    count, found = math.prod(shape), octets(source, content)
    if count > LONGEST_ARRAY or found.end - found.position != count * struct.calcsize(NUMBERS[name]):
        raise source.malformed("a numpy array in it has the wrong length")
    numbers = np.frombuffer(found.take(found.end - found.position), np.dtype(name).newbyteorder("<"))
    return numbers.reshape(shape, order="F" if columns_first else "C").tolist()
