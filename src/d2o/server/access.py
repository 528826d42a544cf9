"""Who may ask: requests to a name of this server, none on behalf of another site's page, and those with the token."""

import hmac
import re
from collections.abc import Container, Iterable
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
REMEDIES = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1", "Connection": "close"}}
OPENED = {"navigate", "document"}
"""What a browser says of a page that its reader opens, as its mode and its destination."""


class AccessControl:
    """Let through requests that name this server and that no other site's page has sent (ASGI middleware).

    `host` is where the server listens, `names` are its other names. Anybody can let a name of theirs point to this
    machine (DNS rebinding), so that unknown names are refused; an address of numbers cannot be made to, so that a
    server that listens everywhere takes them all. (Starlette's TrustedHostMiddleware knows no addresses.)
    With a `token`, requests must bear it, but for paths that are `free`.
    """

    def __init__(
        self, app: ASGIApp, host: str, names: Iterable[str] = (), token: str | None = None, free: Container[str] = ()
    ) -> None:
        self.app, self.any_address = app, host in WILDCARDS
        self.names = {*LOOPBACK, host.lower(), *(name.lower() for name in names)}
        self.token, self.free = token, free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app = self.app
        if scope["type"] == "http" and (refusal := self.refuse(scope, Headers(scope=scope))):
            status, sentence = refusal
            app = JSONResponse({"error": sentence}, status, REMEDIES.get(status))
        await app(scope, receive, send_with_headers)

    def refuse(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Return the status and the sentence of a refusal, if it shall be one."""
        host = headers.get("host", "").lower()
        if scope.get("state", {}).get("full"):
            return 503, "There are too many connections: try again later."
        if not self.knows(host):
            return 403, f"This server is not known as {host[:100]!r}: use its address, or start it with --allow-host."
        # a browser says on which site's behalf it asks; of other sites, only links to the page lead here
        own = {f"{scheme}://{host}" for scheme in ("http", "https")}
        opened = {headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")} - {None}
        link = scope["method"] == "GET" and scope["path"] == "/" and opened and opened <= OPENED
        other_site = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        if (other_site and not link) or not {origin.lower() for origin in headers.getlist("origin")} <= own:
            return 403, "A page of another web site sent this request."
        if self.token and scope["path"] not in self.free and not self.is_token(headers.get("authorization", "")):
            return 401, "This server requires a token: send the header `Authorization: Bearer TOKEN`."
        return None

    def is_token(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        same = hmac.compare_digest(given.strip().encode("latin-1"), (self.token or "").encode())  # in constant time
        return scheme.lower() == "bearer" and same

    def knows(self, host: str) -> bool:
        """Return whether a Host header has, before its port, a name of this server."""
        match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([\w.-]+))(?::[0-9]{1,5})?", host)
        name = (match[1] or match[2]) if match else ""
        with suppress(ValueError):
            return name in self.names or (self.any_address and bool(ip_address(name)))
        return False
