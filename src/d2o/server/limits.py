"""What one client, and all of them together, may ask for."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is made at once, and the bounds of requests: what is above them is refused."""

    batch: int = 16
    """Images that are made together, of whichever requests."""
    max_seeds: int = 64
    """Images of one request."""
    max_queue: int = 1024
    """Images that wait, of all requests together."""
    max_body: int = 65_536
    """Bytes of a request's body."""
    timeout: float = 60.0
    """Seconds from a request to its images; and for those in progress when the server stops."""

    def __post_init__(self) -> None:
        if not all(value > 0 for value in vars(self).values()):
            raise ValueError("--batch, --max-seeds, --max-queue, --max-body and --timeout must be above 0.")
