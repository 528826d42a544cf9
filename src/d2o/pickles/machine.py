"""A symbolic pickle machine: it follows a pickle's instructions with inert records, so that nothing in it can run.

A name is looked up in a closed table and never imported; a call becomes a `Node` that nobody calls; bytes and long
texts stay in the file as `Span`s. Instructions of protocols 2 to 5 that honest files use are known, all others refused.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .source import LONGEST_NAME, Source

Names = Mapping[tuple[str, str], str]
"""(module, name) as files spell it -> our word for it."""

MOST_MARKS = 1000
LONGEST_TEXT = 1 << 20
"""Bytes of a string that is taken into memory at once: sources are the longest that an honest file has."""
LARGEST_KEY = 1 << 20


@dataclass(frozen=True, slots=True)
class Name:
    """A name of the table, as something to call or to hand on."""

    word: str


@dataclass(eq=False, slots=True)
class Node:
    """What the file asks Python to make: from which name, of what, and what is put into it afterwards."""

    word: str
    arguments: tuple[Any, ...]
    items: dict[Any, Any] = field(default_factory=dict)
    state: Any = None


class Program(NamedTuple):
    value: Any
    nodes: list[Node]
    """All that stand anywhere in the value."""


def run(source: Source, names: Names, persistent: bool = False) -> Program:
    """Read one pickle from `source`; with `persistent` it may refer to storages outside itself.

    Raises UnsafeCheckpointError for a name or instruction that weights do not need, else MalformedCheckpointError.
    """
    machine = Machine(source, names, persistent)
    try:
        return Program(machine.run(), machine.nodes)
    except (IndexError, KeyError, UnicodeError, struct.error) as error:
        raise source.malformed(f"an instruction lacks what it needs ({type(error).__name__})") from error


class Machine:
    def __init__(self, source: Source, names: Names, persistent: bool) -> None:
        self.source, self.names, self.persistent = source, names, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}
        self.nodes: list[Node] = []
        self.operations = 0

    def run(self) -> Any:
        while (code := self.source.take(1)) != STOP:
            self.operations += 1
            self.source.spend("instructions")
            if operation := OPERATIONS.get(code):
                operation(self)
            elif code in INSTRUCTIONS:
                raise self.source.unsafe(f"uses the pickle instruction {INSTRUCTIONS[code]}")
            else:
                raise self.source.malformed(f"0x{code.hex()} is no instruction of a pickle")
        value = self.stack.pop()
        if self.stack or self.marks:
            raise self.source.malformed("values are left over at its end")
        return value

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def text(self, length: int) -> None:
        long = length > LONGEST_TEXT
        self.push(self.source.skip(length, text=True) if long else self.source.take(length).decode())

    def mark(self) -> None:
        if len(self.marks) >= MOST_MARKS:
            raise self.source.unsafe(f"nests its values more than {MOST_MARKS:,} deep")
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.marks.pop()
        return values

    def last(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise IndexError
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values

    def remember(self, index: int) -> None:
        if index > self.operations:  # a list of that length would be memory for nothing
            raise self.source.unsafe(f"numbers a value {index:,} after {self.operations:,} instructions")
        self.memo[index] = self.stack[-1]

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise self.source.malformed("a name in it is not a text")
        word = self.names.get((module, name))
        if word is None:
            raise self.source.unsafe(f"asks Python for `{module[:LONGEST_NAME]}.{name[:LONGEST_NAME]}`")
        self.push(Name(word))

    def node(self, word: str, arguments: Any) -> None:
        if not isinstance(arguments, tuple):
            raise self.source.malformed("arguments in it are not a tuple")
        self.nodes.append(Node(word, arguments))
        self.push(self.nodes[-1])

    def call(self) -> None:
        function, arguments = self.last(2)
        if not isinstance(function, Name):
            raise self.source.unsafe("calls something that is not a name")
        self.node(function.word, arguments)

    def refer(self) -> None:
        if not self.persistent:
            raise self.source.unsafe("refers to something outside itself")
        match self.stack.pop():
            case ("module", Name() as name, _, _):  # a class with its source, as legacy torch files have it
                self.push(name)
            case arguments:
                self.node(OUTSIDE, arguments)

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Node) or target.state is not None:
            raise self.source.unsafe("changes something that it did not make")
        target.state = state

    def key(self, value: Any) -> Any:
        """Return a dictionary's key: hashing anything but a text or a small number can take for ever."""
        if not isinstance(value, str) and not (isinstance(value, int) and 0 <= value < LARGEST_KEY):
            raise self.source.malformed("a key in it is neither a text nor a small number")
        return value

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Node) else target
        if not isinstance(items, dict) or len(values) % 2:
            raise self.source.malformed("it puts items into something that is no dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            items[self.key(key)] = value

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise self.source.malformed("it appends to something that is no list")
        target.extend(values)

    def add(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise self.source.malformed("it adds to something that is no set")
        target.update(map(self.key, values))

    def protocol(self) -> None:
        if (version := self.source.number(1)) not in range(2, 6):
            raise self.source.malformed(f"there is no pickle protocol {version}")


STOP = b"."
INSTRUCTIONS = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}
"""All that exist; those that are not followed are named in errors."""
OUTSIDE = "outside"
"""The word of a reference to something outside the pickle, such as a storage of a torch file."""

# Every instruction that is followed, by its byte.
OPERATIONS: dict[bytes, Callable[[Machine], object]] = {
    b"\x80": Machine.protocol,
    b"\x95": lambda m: m.source.need(m.source.number(8)),  # a frame: only its length
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.source.number(1)),
    b"M": lambda m: m.push(m.source.number(2)),
    b"J": lambda m: m.push(m.source.number(4, signed=True)),
    b"\x8a": lambda m: m.push(m.source.number(m.source.number(1), signed=True)),
    b"G": lambda m: m.push(struct.unpack(">d", m.source.take(8))[0]),
    b"\x8c": lambda m: m.text(m.source.number(1)),
    b"X": lambda m: m.text(m.source.number(4)),
    b"\x8d": lambda m: m.text(m.source.number(8)),
    b"C": lambda m: m.push(m.source.skip(m.source.number(1))),
    b"B": lambda m: m.push(m.source.skip(m.source.number(4))),
    b"\x8e": lambda m: m.push(m.source.skip(m.source.number(8))),
    b"\x96": lambda m: m.push(m.source.skip(m.source.number(8))),  # a bytearray
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.push(m.last(1)),
    b"\x86": lambda m: m.push(m.last(2)),
    b"\x87": lambda m: m.push(m.last(3)),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"]": lambda m: m.push([]),
    b"a": lambda m: m.append([m.stack.pop()]),
    b"e": lambda m: m.append(m.since_mark()),
    b"}": lambda m: m.push({}),
    b"s": lambda m: m.set_items(list(m.last(2))),
    b"u": lambda m: m.set_items(m.since_mark()),
    b"\x8f": lambda m: m.push(set()),
    b"\x90": lambda m: m.add(m.since_mark()),
    b"\x91": lambda m: m.push(frozenset(map(m.key, m.since_mark()))),
    b"(": Machine.mark,
    b"0": lambda m: m.stack.pop(),
    b"1": Machine.since_mark,
    b"q": lambda m: m.remember(m.source.number(1)),
    b"r": lambda m: m.remember(m.source.number(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.push(m.memo[m.source.number(1)]),
    b"j": lambda m: m.push(m.memo[m.source.number(4)]),
    b"c": lambda m: m.name(m.source.line(), m.source.line()),
    b"\x93": lambda m: m.name(*m.last(2)),
    b"R": Machine.call,
    b"\x81": Machine.call,
    b"b": Machine.build,
    b"Q": Machine.refer,
}
