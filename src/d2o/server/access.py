"""Who may ask: requests to a name of this server, and none on behalf of another web site's page."""

import re
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
WILDCARDS = ("0.0.0.0", "::")
HEADERS = {  # the browser asks nobody but this server, and shows its answers in no other site's page
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class AccessControl:
    """Let through requests that name this server and that no other site's page has sent (ASGI middleware).

    `host` is where the server listens, `names` are its other names. Anybody can let a name of theirs point to this
    machine (DNS rebinding), so that unknown names are refused; an address of numbers cannot be made to, so that a
    server that listens everywhere takes them all. (Starlette's TrustedHostMiddleware knows no addresses.)
    """

    def __init__(self, app: ASGIApp, host: str, names: Iterable[str]) -> None:
        self.app, self.any_address = app, host in WILDCARDS
        self.names = {*LOOPBACK, host.lower(), *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        sentence = self.refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        app = JSONResponse({"error": sentence}, 403) if sentence else self.app
        await app(scope, receive, send_with_headers)

    def refusal(self, headers: Headers) -> str | None:
        host = headers.get("host", "").lower()
        if not self.knows(host):
            return f"This server is not known as {host[:100]!r}: ask it by its address, or start it with --allow-host."
        origin = headers.get("origin")
        # a browser says on which site's behalf it asks; following a link is no request of the site with the link
        other_origin = origin is not None and origin.lower().partition("://")[2] != host
        other_site = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        if other_origin or (other_site and headers.get("sec-fetch-dest") != "document"):
            return "A page of another web site sent this request."
        return None

    def knows(self, host: str) -> bool:
        """Return whether a Host header has, before its port, a name of this server."""
        match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([\w.-]+))(?::[0-9]{1,5})?", host)
        name = (match[1] or match[2]) if match else ""
        with suppress(ValueError):
            return name in self.names or (self.any_address and bool(ip_address(name)))
        return False
