"""The application on a port, until it is asked to stop: requests in progress are still answered."""

import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import uvicorn

from .connections import Connection, Server, share_files
from .limits import Limits


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


def make_server(application: Any, limits: Limits, grace: float = 30, proxies: Sequence[str] = ()) -> uvicorn.Server:
    """Return a server within limits; what `proxies` say of their clients' addresses is believed."""
    connections, accepted = share_files(limits.max_connections)
    config = uvicorn.Config(
        application,
        loop="asyncio",
        http=Connection,
        ws="none",
        log_level="error",  # its warnings are of what strangers send
        access_log=False,
        server_header=False,
        backlog=accepted,
        limit_concurrency=connections,
        timeout_keep_alive=limits.idle,
        timeout_graceful_shutdown=max(1, round(grace)),
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
    )
    return Server(config)


def serve(server: uvicorn.Server, host: str, ports: Iterable[int], *, ready: Callable[[str], None]) -> None:
    """Serve on the first free port until Ctrl-C or SIGTERM; `ready` gets the address.

    Requests in progress are answered within the server's grace. Raises OSError when no port can be had.
    """
    name = f"[{host}]" if ":" in host else host
    # uvicorn raises the signals again when it has stopped, but a stop that was asked for is a good end
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with listen(host, ports) as listener, suppress(KeyboardInterrupt):
            ready(f"http://{name}:{listener.getsockname()[1]}/")
            server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
