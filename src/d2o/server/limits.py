"""What one client, and all of them together, may ask for."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is made at once, and the bounds of requests: what is above them is refused."""

    batch: int = 16
    """Images that are made together, of whichever requests."""
    max_seeds: int = 64
    """Images of one request."""
    max_queue: int = 1024
    """Images that are asked for and not answered yet, of all clients together."""
    max_client: int = 512
    """The same of one client, by its address."""
    max_connections: int = 1000
    """Open connections, at most half of them of one address; fewer where `ulimit -n` is low."""
    max_body: int = 65_536
    """Bytes of a request's body."""
    idle: int = 10
    """Seconds in which a client must send its whole request, and take something of the answer."""
    timeout: float = 60.0
    """Seconds from a request to its images; and for those in progress when the server stops."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} must be above 0.")
