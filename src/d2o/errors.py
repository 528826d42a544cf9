"""What can be wrong with a checkpoint or its model: each error says what it is and what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 300
"""Characters that are quoted of a word, or of what is wrong with a description: a hostile one may be endless."""


def printable(text: str) -> str:
    """Return a text with control characters spelled out and endless words cut: a file's own could steer a terminal."""
    if len(text) < LONGEST and text.isprintable():
        return text  # as nearly all are, such as a million names of images
    text = re.sub(rf"\S{{{LONGEST},}}", lambda word: f"{word[0][:LONGEST]}...", text)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def describe(error: Exception) -> str:
    """Return what a library says of a broken file, on one line of bounded length."""
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename:
        reason = f"{error.strerror}: {error.filename}"
    return printable(reason.strip().rstrip("."))[:LONGEST]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used."""

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


class MalformedCheckpointError(CheckpointError):
    """The file is damaged, or is not a checkpoint at all."""


class UnsupportedCheckpointError(CheckpointError):
    """The file is well formed but holds something that is not a denoiser we know."""


class MismatchError(CheckpointError):
    """The weights do not fit the network that the file describes."""


class UnsafeCheckpointError(CheckpointError):
    """The file asks for something that weights never need; nothing of it was run and nothing was loaded."""


class Diverged(ValueError):
    """A model gives numbers that are not finite: `fact` says which, `start` from where to train again."""

    def __init__(self, fact: str, start: str = "an earlier checkpoint") -> None:
        self.fact = fact
        remedy = f"start again from {start}, with a lower learning rate or in precision float32"
        super().__init__(f"{fact}: training has diverged; {remedy}.")


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Turn what is wrong with a description of a network into an UnsupportedCheckpointError that names its file."""
    try:
        yield
    except CheckpointError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        reason = reason if len(reason) <= LONGEST else reason[:LONGEST] + "..."
        raise UnsupportedCheckpointError(f"{path} cannot be used: {reason}.") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is the system's or the GPU's refusal of more memory, without importing torch."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)
