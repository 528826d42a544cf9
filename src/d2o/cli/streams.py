"""Standard streams that neither end a command nor falsify its exit code when they are closed, full, or not read."""

import io
import os
import sys
from contextlib import suppress


class Undelivered(OSError):
    """Standard output does not take what was asked for."""


class Output(io.FileIO):
    """Standard output, whose failure is told apart from every other file's."""

    def write(self, data, /) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            sentence = f"standard output cannot be written to ({(error.strerror or 'refused').lower()})"
            raise Undelivered(error.errno, f"{sentence}: the outcome is lost; send it to another place.") from error


class Remarks(io.FileIO):
    """Standard error: remarks that nobody reads are dropped."""

    def write(self, data, /) -> int | None:
        with suppress(OSError):
            return super().write(data)
        return len(memoryview(data).cast("B"))


def guard_streams() -> None:
    """Put guards in the place of the process's own standard output and standard error."""
    while (descriptor := os.open(os.devnull, os.O_RDONLY)) <= 2:  # else a file of ours would become a closed stream
        pass
    os.close(descriptor)
    for name, kind, number in (("stdout", Output, 1), ("stderr", Remarks, 2)):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):  # nobody has replaced it; None where it is closed
            text = (stream.encoding, stream.errors) if stream else ("utf-8", "backslashreplace")
            raw = io.BufferedWriter(kind(number, "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(raw, *text, line_buffering=number == 2 or raw.isatty()))
