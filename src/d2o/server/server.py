"""The application on a port, until it is asked to stop: requests that were begun are then still answered."""

import signal
import socket
from collections.abc import Callable
from typing import Any


def serve(application: Any, host: str, port: int, *, ready: Callable[[str], None], grace: int = 30) -> None:
    """Serve on a port (0: any free one) until Ctrl-C or SIGTERM; `ready` gets the address.

    Requests in progress have `grace` seconds to be answered. Raises OSError when the port cannot be had.
    """
    import uvicorn

    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=grace,
    )
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise OSError(f"Cannot listen on {host} port {port} ({reason}): choose another --port or --host.") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else a small answer waits 40 ms for the last one
    name = f"[{host}]" if ":" in host else host
    # uvicorn gives the signals back when it has stopped: a stop that was asked for is a good end
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ready(f"http://{name}:{listener.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listener.close()
