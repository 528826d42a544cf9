"""A file that is read in order and never past its end, its budget, and the errors that name it."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from d2o.errors import CheckpointError, MalformedCheckpointError, UnsafeCheckpointError
from d2o.files import open_regular

LONGEST_NAME = 256
BUDGET = {"instructions": 600_000, "values": 100_000}
"""What one file may ask for, with all that is nested in it. A network has about 100 instructions a tensor."""
MORE_BYTES = 1 << 24
"""How much of a file may be read beside four times its length: what is nested in it is read again and again."""


@dataclass(frozen=True, slots=True)
class Span:
    """A string of bytes (or, when `text`, of UTF-8) that was left in the file."""

    start: int
    length: int
    text: bool = False


class Source:
    """The bytes `start` to `end` of an open file, read in order; all parts of a file share its `budget`."""

    def __init__(self, path: Path, file: IO[bytes], start: int, end: int, budget: dict[str, int] | None = None) -> None:
        self.path, self.file, self.position, self.end = path, file, start, end
        self.budget = {**BUDGET, "bytes": 4 * end + MORE_BYTES} if budget is None else budget
        file.seek(start)

    def part(self, start: int, length: int) -> "Source":
        return Source(self.path, self.file, start, start + length, self.budget)

    def nested(self, content: bytes) -> "Source":
        """Return a file that lies, encoded, within this one."""
        return Source(self.path, io.BytesIO(content), 0, len(content), self.budget)

    def spend(self, what: str, count: int = 1) -> None:
        self.budget[what] -= count
        if self.budget[what] < 0:
            raise self.unsafe(f"asks for more {what} than the weights of any network need")

    @property
    def left(self) -> int:
        return self.end - self.position

    def need(self, count: int) -> None:
        if count > self.left:
            found = f"{count:,} bytes should follow byte {self.position:,}, but only {self.left:,} do"
            raise MalformedCheckpointError(f"{self.path} is truncated: {found}; download the file again.")

    def expect_end(self) -> None:
        if self.left:
            raise self.malformed("something follows after its end")

    def take(self, count: int) -> bytes:
        self.need(count)
        self.spend("bytes", count)
        self.position += count
        content = self.file.read(count)
        if len(content) != count:
            raise self.malformed("it became shorter while it was read")
        return content

    def skip(self, count: int, text: bool = False) -> Span:
        """Return where the next bytes are, without reading them."""
        self.need(count)
        span = Span(self.position, count, text)
        self.position += count
        self.file.seek(self.position)
        return span

    def number(self, count: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(count), "little", signed=signed)

    def line(self) -> str:
        content = self.file.readline(min(LONGEST_NAME, self.left))
        self.position += len(content)
        if not content.endswith(b"\n"):
            raise self.malformed("a name in it does not end")
        return content[:-1].decode()

    def malformed(self, reason: str) -> MalformedCheckpointError:
        where = f"near byte {self.position:,}"
        return MalformedCheckpointError(f"{self.path} is damaged, {where}: {reason}; download the file again.")

    def unsafe(self, wish: str) -> UnsafeCheckpointError:
        reason = "A checkpoint of weights has no reason to: nothing was run and nothing was loaded"
        remedy = "If you trust the author, ask for the weights as a safetensors file"
        return UnsafeCheckpointError(f"{self.path} {wish}. {reason}. {remedy}.")


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a file to be read in order; a CheckpointError where it cannot be opened."""
    try:
        file = open_regular(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    with file:
        yield Source(path, file, 0, os.fstat(file.fileno()).st_size)
