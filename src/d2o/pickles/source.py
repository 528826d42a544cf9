"""A file that is read in order and never past its end, and the errors that name it."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from d2o.errors import MalformedCheckpointError, UnsafeCheckpointError

LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class Span:
    """A string of bytes (or, when `text`, of UTF-8) that was left in the file."""

    start: int
    length: int
    text: bool = False


class Source:
    """The bytes `start` to `end` of an open file, read in order."""

    def __init__(self, path: Path, file: BinaryIO, start: int, end: int) -> None:
        self.path, self.file, self.position, self.end = path, file, start, end
        file.seek(start)

    def part(self, start: int, length: int) -> "Source":
        return Source(self.path, self.file, start, start + length)

    @property
    def left(self) -> int:
        return self.end - self.position

    def need(self, count: int) -> None:
        if count > self.left:
            found = f"{count:,} bytes should follow byte {self.position:,}, but only {self.left:,} do"
            raise MalformedCheckpointError(f"{self.path} is cut short: {found}; fetch the file again.")

    def expect_end(self) -> None:
        if self.left:
            raise self.malformed("something follows after its end")

    def take(self, count: int) -> bytes:
        self.need(count)
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
        return MalformedCheckpointError(f"{self.path} is damaged, {where}: {reason}; fetch the file again.")

    def unsafe(self, wish: str) -> UnsafeCheckpointError:
        reason = "A checkpoint of weights has no reason to: nothing was run and nothing was loaded"
        remedy = "If you trust its author, ask for the weights as a safetensors file"
        return UnsafeCheckpointError(f"{self.path} {wish}. {reason}. {remedy}.")
