"""What can be wrong with a checkpoint: each error says what the file holds and what to do."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used."""


class MalformedCheckpointError(CheckpointError):
    """The file is damaged, or is not a checkpoint at all."""


class UnsupportedCheckpointError(CheckpointError):
    """The file is well formed but holds something that is not a denoiser we know."""


class MismatchError(CheckpointError):
    """The weights do not fit the network that the file describes."""


class UnsafeCheckpointError(CheckpointError):
    """The file asks for something that weights never need; nothing of it was run and nothing was loaded."""
