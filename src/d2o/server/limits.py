"""What one client, and all of them together, may ask for."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The batch size, and limits of requests: what is above them is refused."""

    batch: int = 16
    """Images made together, across requests."""
    max_seeds: int = 64
    """Images per request."""
    max_queue: int = 1024
    """Images requested and not yet answered, for all clients together."""
    max_client: int = 512
    """The same for one client, by its address."""
    max_connections: int = 1000
    """Open connections, at most half of them from one address; fewer if `ulimit -n` is low."""
    max_body: int = 65_536
    """Bytes of a request's body."""
    idle: int = 10
    """Seconds in which a client must send its whole request, and read part of the response."""
    timeout: float = 60.0
    """Seconds from a request to its images, and for requests in progress when the server stops."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} must be above 0.")
