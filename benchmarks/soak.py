"""Serve honest clients beside those who never end what they began, leave, and fill a low limit of open files.

python benchmarks/soak.py
python benchmarks/soak.py --seconds 10 --files 64

The server runs in a process of its own. Prints what the honest saw, and the server's files, processor time and log.
Exit code 1: it says what went wrong.
"""

import argparse
import json
import os
import random
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

HOST = b"Host: localhost\r\n"
IMAGES = b"GET /images?seeds=0-15&format=npy HTTP/1.1\r\n" + HOST + b"\r\n"
IDLE = 2
WAVE = 100
"""Connections that one kind of guest opens at a time."""
GUESTS: dict[str, tuple[bytes, bytes, float]] = {
    "silent": (b"", b"", 3),
    "slow headers": (b"GET /health HTTP/1.1\r\nX: ", b"x", 3),
    "slow bodies": (b"POST /images HTTP/1.1\r\n" + HOST + b"Content-Length: 5000\r\n\r\n", b" ", 3),
    "endless bodies": (b"GET /health HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 3),
    "deaf": (IMAGES * 50, b"", 3),
    "leavers": (IMAGES, b"", 0),
    "idle": (b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n", b"", 3),
    "garbage": (b"POST /images HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\0", b"\0", 1),
}
"""What guests send first, what again and again, and the seconds after which they leave."""


class Server(NamedTuple):
    """A server's port, process, and the lines that it logs."""

    port: int
    process: subprocess.Popen
    log: list[str]

    def ask(self, path: str, seconds: float = 10) -> tuple[int, float]:
        """Return the status of an answer, 0 for none, and the seconds that it took."""
        began, answer = time.monotonic(), b""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), seconds) as line:
            line.sendall(f"GET {path} HTTP/1.1\r\nConnection: close\r\n".encode() + HOST + b"\r\n")
            while chunk := line.recv(65536):
                answer += chunk
        return int(answer.split()[1]) if answer else 0, time.monotonic() - began

    def measure(self) -> dict[str, float]:
        """Return how many files are open, the seconds of processor time so far, and the MiB of memory."""
        place = Path(f"/proc/{self.process.pid}")
        times = (place / "stat").read_text().rpartition(")")[2].split()[11:13]
        pages = int((place / "statm").read_text().split()[1])
        seconds = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
        return {"files": len(list((place / "fd").iterdir())), "seconds": seconds, "MiB": pages * 4096 / 2**20}


@contextmanager
def serving(model: str, files: int) -> Iterator[Server]:
    """Serve a model in a process that may open so many files."""
    command = [sys.executable, "-m", "d2o", "serve", model, "--port", "0", "--idle", str(IDLE)]
    options = {"stderr": subprocess.PIPE, "text": True, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (files, files))
    with subprocess.Popen(command, preexec_fn=limit, **options) as process:
        told = process.stderr
        assert told
        found, log = re.search(r":(\d+)/", told.readline()), []
        if not found:
            raise SystemExit(f"The server did not start: {told.read()}")
        threading.Thread(target=lambda: log.extend(told), daemon=True).start()
        try:
            yield Server(int(found[1]), process, log)
        finally:
            process.terminate()
            process.wait(60)


def visit(server: Server, first: bytes, again: bytes, seconds: float) -> None:
    """Be so many guests of one kind, until their time is over."""
    lines: list[socket.socket] = []
    with suppress(OSError):
        for _ in range(WAVE):
            lines.append(line := socket.create_connection(("127.0.0.1", server.port), 2))
            line.setblocking(False)
            line.send(first)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for line in lines if again else ():
            with suppress(OSError):
                line.send(again)
        time.sleep(0.3)
    for line in lines:
        line.close()


def soak(server: Server, seconds: float) -> dict[str, Any]:
    """Send guests and honest clients for some seconds; return what was seen."""
    before, most, longest = server.measure(), 0, 0.0
    answers = {"/health": Counter(), "/images?seeds=0-3": Counter()}
    end = time.monotonic() + seconds

    def ask(path: str) -> None:
        nonlocal longest
        status, took = server.ask(path)
        answers[path][status] += 1
        longest = max(longest, took)

    def count_files() -> None:
        nonlocal most
        most = max(most, server.measure()["files"])

    def repeat(action: Callable[[], None]) -> None:
        while time.monotonic() < end:
            action()
            time.sleep(0.1)

    actions = [*(partial(ask, path) for path in answers), count_files]
    actions += 2 * [lambda: visit(server, *random.choice(list(GUESTS.values())))]
    threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(2 * IDLE + 1)  # until the last guests have been left
    after = server.measure()
    return {
        "answers": answers,
        "longest seconds": round(longest, 2),
        "most files": most,
        **{f"{name}, before and after": [round(before[name]), round(after[name])] for name in after},
        "lines logged": len(server.log),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits-small")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--files", type=int, default=128, help="files that the server may open")
    options = parser.parse_args()
    with serving(options.model, options.files) as server:
        seen = soak(server, options.seconds)
    print(json.dumps(seen, indent=2))
    statuses = sum(seen["answers"].values(), Counter())
    before, after = seen["files, before and after"]
    faults = {
        "honest clients without an answer": not statuses.keys() <= {200, 429, 503},
        "fewer than nine of ten honest clients were served": statuses[200] < 0.9 * statuses.total(),
        "too many open files": seen["most files"] >= options.files or after > before + 4,
        "a log that strangers fill": seen["lines logged"] > 0,
        "no clean end": server.process.returncode != 0,
    }
    sys.exit("; ".join(fault for fault, found in faults.items() if found) or None)


if __name__ == "__main__":
    main()
