"""The application on a port, until it is asked to stop: requests in progress are still answered."""

import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any


def listen(host: str, ports: Iterable[int]) -> socket.socket:
    """Listen at a host on the first of the ports that is free (0: any); raises OSError where none is."""
    problem, port = "none was given", None
    for port in ports:
        try:
            listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except (OSError, OverflowError) as error:
            problem = str(error)
        else:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small answers wait 40 ms each
            return listener
    raise OSError(f"Cannot listen on {host} port {port} ({problem}): choose another --port or --host.")


def serve(
    application: Any, host: str, ports: Iterable[int], *, ready: Callable[[str], None], grace: float = 30
) -> None:
    """Serve on the first free port until Ctrl-C or SIGTERM; `ready` gets the address.

    Requests in progress have `grace` seconds to be answered. Raises OSError when no port can be had.
    """
    import uvicorn

    quiet = {"log_level": "warning", "access_log": False, "server_header": False}
    config = uvicorn.Config(application, timeout_graceful_shutdown=max(1, round(grace)), **quiet)
    name = f"[{host}]" if ":" in host else host
    # uvicorn raises the signals again when it has stopped, but a stop that was asked for is a good end
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with listen(host, ports) as listener, suppress(KeyboardInterrupt):
            ready(f"http://{name}:{listener.getsockname()[1]}/")
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
