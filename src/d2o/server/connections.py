"""Connections that end: few enough for the files of a process, and none for clients that neither ask nor listen."""

import asyncio
import json
import math
import os
import secrets
import sys
from pathlib import Path
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .access import HEADERS

BACKLOG = 1024
"""Clients that may wait to be accepted."""


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 with two more rules; what they take is in uvicorn's own settings.

    A client that has sent no whole request within `timeout_keep_alive` seconds, or has taken nothing of an answer, is
    left. When `limit_concurrency` connections are open, or one address has half of them, a new one takes the place of
    that which has waited longest for its request, so that nobody can keep others out by asking nothing; where all are
    at work, the application is told to refuse it (`full` in the scope's state), and they end with their answers.
    """

    timer: asyncio.TimerHandle | None = None
    since, untaken = math.inf, 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.most, self.limit_concurrency = self.limit_concurrency or sys.maxsize, None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timer = self.loop.call_later(0, self.wait)  # when what has come already has been read
        everyone = cast("set[Connection]", self.connections)
        own = {one for one in everyone if one.client and self.client and one.client[0] == self.client[0]}
        for others, most in ((own, (self.most + 1) // 2), (everyone, self.most)):
            surplus = max(0, len(others) - most)
            idle = sorted((one for one in others if one.waits), key=lambda one: one.since)[:surplus]
            for one in idle:
                everyone.discard(one)
                one.transport.abort()
            if len(idle) < surplus:
                self.app_state = {**self.app_state, "full": True}
                for one in others:
                    if one.cycle:
                        one.cycle.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timer:
            self.timer.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.wait()

    @property
    def waits(self) -> bool:
        """Whether there is no whole request to answer, or an answer that is not taken."""
        answers = self.cycle and not (self.cycle.more_body or self.cycle.response_complete or self.flow.write_paused)
        return self.since < math.inf and not answers

    def wait(self) -> None:
        self.since, self.untaken = self.loop.time(), self.transport.get_write_buffer_size()
        if self.timer:
            self.timer.cancel()
        self.timer = self.loop.call_later(self.timeout_keep_alive, self.look)

    def look(self) -> None:
        asks_nothing = self.cycle is None or self.cycle.response_complete
        if self.transport.get_write_buffer_size() == self.untaken and (self.untaken or asks_nothing):
            self.transport.abort()
        else:
            self.wait()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, in place of the application where that has not begun to answer what came before."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            more = {"Content-Type": "application/json", "Connection": "close", "X-Request-Id": secrets.token_hex(8)}
            answer = h11.Response(status_code=400, headers=[*HEADERS.items(), *more.items()], reason=b"Bad Request")
            for event in (answer, h11.Data(data=json.dumps({"error": msg}).encode()), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn that lets many clients wait, but accepts few at a time: what is accepted takes a file at once."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)


def share_files(most: int) -> tuple[int, int]:
    """Return how many connections may be open, at most `most`, and how many are accepted at a time.

    Each takes one of the files that this process may open. ValueError where they are too few.
    """
    if os.name != "posix":
        return most, 16
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = (sys.maxsize if allowed == resource.RLIM_INFINITY else allowed) - len([*Path("/dev/fd").iterdir()])
    accepted = max(1, min(16, free // 32, most // 16))
    if (found := min(most, free - 4 * accepted - 8)) < 1:  # closing one takes a few turns of the loop
        raise ValueError(f"Only {allowed} files may be open here: raise the limit, for example by `ulimit -n 1024`.")
    return found, accepted
