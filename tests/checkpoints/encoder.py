"""Pickles written instruction by instruction, as Python, torch and numpy write those of honest checkpoints.

Nothing is pickled by Python: the same bytes come from every version of it, and no class needs to exist.
"""

import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np


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
        self.kept: list[Call] = []

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
        if self.recall(id(call)):
            return
        self.kept.append(call)  # an id is its own for as long as the object lives
        self.word(call.name)
        self.tuple(call.arguments)
        self.out += b"\x81" if call.new else b"R"
        self.remember(id(call))
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
