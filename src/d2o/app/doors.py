"""The doors of the server: only the few paths that the page itself uses are open, and what comes in is not endless.

gradio's own endpoints that serve files, fetch addresses or talk to components stay closed: the page needs none of them,
because its pictures travel inside its answers.
"""

import json
import os
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from d2o.server.origin import another_site

OPEN = ("/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/gradio_api/theme.css")
OPEN_BELOW = (
    *("/assets/", "/static/", "/gradio_api/startup-events", "/gradio_api/heartbeat/", "/gradio_api/info"),
    *("/gradio_api/queue/", "/gradio_api/call/", "/gradio_api/run/", "/gradio_api/upload", "/gradio_api/cancel"),
)
UPLOAD = "/gradio_api/upload"
LARGEST_MESSAGE = 2**20
SLACK = 2**16
"""Bytes around an uploaded file: boundaries and names."""
UPLOADS_AT_ONCE = 4
"""Times the largest upload that all files which wait to be read may take together."""
SMALLEST = 2**16
"""Bytes that every waiting file counts for at least, so that there are not countless small ones."""
HOSTS = ("127.0.0.1", "localhost", "[::1]")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'self'; form-action 'self'; object-src 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),  # the browser asks nobody else
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class TooMuch(Exception):
    """More was sent than the server takes."""


class Doors:
    """Let through what the page uses (ASGI middleware).

    `local`: only requests that name this machine as their host and come from its own pages, so that no web site
    reaches it, neither through a browser that visits both nor by a name of its own. Otherwise any name of the machine
    will do, but the page that sends a request must be of the same name. `folder` is where uploads are written.
    """

    def __init__(self, app: Any, upload_limit: int, local: bool, folder: str | Path | None = None) -> None:
        self.app, self.upload_limit, self.local, self.folder = app, upload_limit, local, folder
        self.coming = 0  # bytes of uploads that are on their way

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 403 for what is closed, 413 or 507 for what is too large, 400 for what breaks; pass on the rest."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["type"] != "http":
            await refuse(send, 403, "This page has no such door.")
            return
        host, origin = (headers[name].decode("latin-1") if name in headers else None for name in (b"host", b"origin"))
        if self.local and not is_local(host or ""):
            await refuse(send, 403, "This page is for this machine: open it as http://127.0.0.1.")
            return
        own = self.local and origin is not None and is_local(origin.partition("://")[2])
        if another_site(host or "", origin) and not own:
            await refuse(send, 403, "Another web site sent this request.")
            return
        path = scope["path"]
        if path != "/" and path not in OPEN and not path.startswith(OPEN_BELOW):
            await refuse(send, 403, "This page serves no files and has no such door.")
            return
        most = self.upload_limit + SLACK if path == UPLOAD else LARGEST_MESSAGE
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > most:
            await refuse(send, 413, f"At most {most:,} bytes are taken here.")
            return
        if path != UPLOAD:
            await self.passed_on(scope, receive, send, most)
            return
        most = int(length) or most
        if self.waiting() + self.coming + most > UPLOADS_AT_ONCE * (self.upload_limit + SLACK):
            await refuse(send, 507, "Too many files were uploaded and not opened: try again in ten minutes.")
            return
        self.coming += most
        try:
            await self.passed_on(scope, receive, send, most)
        finally:
            self.coming -= most

    def waiting(self) -> int:
        """Return the bytes of the files that were uploaded and not read yet."""
        total = 0
        for place, _, names in os.walk(self.folder) if self.folder is not None else ():
            for name in names:
                with suppress(OSError):  # it was just deleted
                    total += max((Path(place) / name).stat().st_size, SMALLEST)
        return total

    async def passed_on(self, scope: Any, receive: Any, send: Any, most: int) -> None:
        """Let the application answer, with the policy's headers, and take at most so many bytes."""
        came, started = 0, False

        async def counted() -> Any:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > most:
                raise TooMuch
            return message

        async def dressed(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        try:
            await self.app(scope, counted, dressed)
        except TooMuch:
            if not started:
                await refuse(send, 413, f"At most {most:,} bytes are taken here.")
        except Exception:  # a request that gradio did not foresee: the terminal gets it all, its sender nothing
            traceback.print_exc()
            if not started:
                await refuse(send, 400, "This request cannot be understood.")


def is_local(host: str) -> bool:
    """Return whether a Host header names this machine."""
    name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    return (name if port.isdigit() and name else host).lower() in HOSTS


async def refuse(send: Any, status: int, sentence: str) -> None:
    """Answer with a sentence."""
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
