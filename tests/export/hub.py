"""A stand-in for the Hugging Face hub on this machine: it takes repositories and commits, or refuses as it is told."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Hub(HTTPServer):
    """What was asked of it, with which token, and the files of its commits; `refusals` are part of a path -> status."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.files: dict[str, bytes] = {}
        self.made: dict[str, Any] = {}
        self.message = ""
        self.refusals: dict[str, int] = {}
        self.private = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Hub

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        hub, content = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(self.path)
        hub.tokens.add(self.headers.get("Authorization"))
        status = next((code for part, code in hub.refusals.items() if part in self.path), 200)
        answer: Any = {"errors": [{"message": "not so"}], "url": f"{hub.address}/me/x"}
        if status == 200:
            answer = self.answer(hub, content)
        body = json.dumps(answer).encode() if status != 299 else b"<html>captive portal</html>"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, hub: Hub, content: bytes) -> Any:
        if "/preupload/" in self.path:
            files = json.loads(content)["files"]
            return {"files": [{"path": row["path"], "uploadMode": "regular", "shouldIgnore": False} for row in files]}
        if "/commit/" in self.path:
            rows = [json.loads(line) for line in content.splitlines()]
            hub.message = rows[0]["value"]["summary"]
            hub.files |= {row["value"]["path"]: base64.b64decode(row["value"]["content"]) for row in rows[1:]}
            return {"commitUrl": f"{hub.address}/me/x/commit/1", "commitOid": "1" * 40, "success": True}
        if "/create" in self.path:
            hub.made = json.loads(content)
        return {"url": f"{hub.address}/me/x", "id": "me/x", "private": hub.private, "siblings": [], "warnings": []}

    def log_message(self, format: str, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def hub_here() -> Iterator[Hub]:
    """Run the stand-in within the context."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
