"""What can be wrong with a checkpoint: each error says what the file holds and what to do."""


def printable(text: str) -> str:
    """Return a text whose control characters are spelled out: a file's own words could steer a terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


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


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is the system's or the GPU's refusal of more memory, without importing torch."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)
