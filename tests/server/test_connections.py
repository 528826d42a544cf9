"""What only a real connection shows: raw request targets, missing hosts, and clients that stall or go away."""

import json
import logging
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from browser import application_server, wait_until
from conftest import make_denoiser

pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from d2o.server.application import application
from d2o.server.connections import share_files
from d2o.server.limits import Limits
from d2o.server.models import Models

SECONDS = 0.02
IDLE = 1


@pytest.fixture(scope="module")
def calls():
    return []


@pytest.fixture(scope="module")
def port(calls):
    """Return the port of a page whose network is slow and counts its images, and whose connections are few."""

    def wait(_, inputs, __):
        calls.extend([1] * len(inputs[0]))
        time.sleep(SECONDS)

    denoiser = make_denoiser(classes=2)
    denoiser.backbone.register_forward_hook(wait)
    made = application(denoiser, "slow", page=Models({"slow": denoiser}, {}), limits=Limits(idle=IDLE, batch=4))
    with application_server(made, idle=IDLE, max_connections=8) as address:
        yield urlsplit(address).port


def ask(port, target, host: str | None = "localhost", method="GET", body=b"", more=()):
    """Send a request as it is written, and return the connection."""
    lines = [f"{method} {target} HTTP/1.1", f"Content-Length: {len(body)}", "Connection: close", *more]
    lines += [] if host is None else [f"Host: {host}"]
    return send(port, "\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def send(port, content):
    line = socket.create_connection(("127.0.0.1", port), 10)
    line.sendall(content)
    return line


def status(line):
    with line:
        return int(line.recv(65536).split()[1])


def wait_for_end(line):
    """Return what came until the server closed the connection, and the seconds until then."""
    began, content = time.monotonic(), b""
    with line:
        try:
            while chunk := line.recv(65536):
                content += chunk
        except ConnectionResetError:
            pass
    return content, time.monotonic() - began


@pytest.mark.parametrize(
    "target",
    [
        *("/../../../../etc/passwd", "/..%2f..%2fetc/passwd", "//etc/passwd", "/page.js/../../__init__.py"),
        *("/engine-server.js", "/%65ngine-browser.js", "/page.js/", "/page.js%00", "/page.js;/etc/passwd"),
    ],
)
def test_a_raw_target_reads_no_path(port, target):
    assert status(ask(port, target)) in (307, 404)


def test_a_request_without_a_host_or_with_two_is_refused(port):
    assert status(ask(port, "/")) == 200
    assert status(ask(port, "/", host=None)) in (400, 403)
    assert status(ask(port, "/", more=["Host: example.org"])) == 400
    assert status(ask(port, "http://example.org/", host="example.org")) == 403
    assert status(send(port, b"GET / HTTP/1.0\r\n\r\n")) == 403


def test_a_teacher_whose_reader_went_away_stops(port, calls):
    calls.clear()
    question = json.dumps({"model": "slow", "point": ["0", "0", 0], "steps": 40}).encode()
    with ask(port, "/page/stages", method="POST", body=question) as line:
        while b"guess" not in line.recv(65536):
            pass
    wait_until(lambda: all_quiet(calls))
    assert len(calls) < 60, "all of them are 79"


def test_images_of_clients_that_left_are_not_made(port, calls):
    points = json.dumps({"model": "slow", "points": [["0", "0", 0]] * 256}).encode()
    busy = ask(port, "/page/images", method="POST", body=points)
    wait_until(lambda: not all_quiet(calls))
    calls.clear()
    for _ in range(5):
        ask(port, "/images?seeds=0-63").close()
        ask(port, "/page/movie?model=slow&first=0&second=1&frames=100").close()
    assert status(busy) == 200 and status(ask(port, "/images?seeds=0-3")) == 200
    wait_until(lambda: all_quiet(calls))
    assert len(calls) <= 256 + 64 + 4, "one may have begun; all of them are 1080"


def all_quiet(calls):
    before = len(calls)
    time.sleep(0.3)
    return len(calls) == before


BEGUN = {
    "nothing": b"",
    "a line": b"GET /health HTTP/1.1\r\n",
    "headers": b"GET /health HTTP/1.1\r\nHost: localhost\r\n",
    "a body": b"POST /images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
    "a body that nobody reads": b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
    "a request that was answered": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("begun", BEGUN)
def test_what_is_begun_and_not_ended_is_left(port, begun):
    content, seconds = wait_for_end(send(port, BEGUN[begun]))
    assert 0.8 * IDLE < seconds < 4 * IDLE
    assert content[9:12] == {"a body": b"408"}.get(begun, b"200" if "that" in begun else b"")


def test_bytes_now_and_then_buy_no_time(port):
    line = send(port, BEGUN["headers"] + b"X: ")
    began = time.monotonic()
    with line, pytest.raises(OSError):
        while time.monotonic() - began < 10 * IDLE:
            line.sendall(b"x")
            time.sleep(0.05)
    assert time.monotonic() - began < 3 * IDLE


def test_who_does_not_read_the_answers_is_left(port):
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect(("127.0.0.1", port))
    line.settimeout(10)
    began = time.monotonic()
    with line, pytest.raises(OSError):
        while time.monotonic() - began < 10:
            line.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
            time.sleep(0.05)
    assert time.monotonic() - began < 9


def test_who_reads_slowly_gets_all():
    content = bytes(30_000_000)

    async def large(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": content})

    with application_server(large, idle=IDLE) as address, socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        line.connect(("127.0.0.1", urlsplit(address).port))
        line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received, pause = 0, 3 * IDLE / (len(content) / 65_536)
        while received < len(content) and (chunk := line.recv(65_536)):
            received += len(chunk)
            time.sleep(pause)
        assert received > len(content)


@pytest.mark.parametrize("begun", BEGUN)
def test_a_crowd_that_ends_nothing_keeps_nobody_out(port, begun):
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(send(port, BEGUN[begun]))
        for _ in range(5):
            assert status(ask(port, "/health")) == 200


def test_where_all_are_at_work_new_ones_are_asked_to_come_again(port):
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(ask(port, "/images?seeds=0-63"))
        content, _ = wait_for_end(ask(port, "/images?seeds=0"))
    head = content.lower()
    assert head.startswith(b"http/1.1 503") and b"retry-after: 1" in head and b"x-request-id" in head


def test_who_asks_without_end_keeps_nobody_out(port):
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(send(port, b"GET /images HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100))
        wait_until(lambda: status(ask(port, "/health")) == 200)
        found = [status(ask(port, "/health")) for _ in range(5)]
    assert found.count(200) >= 4


NOISE = [
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000,
    b"POST /images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /images?seeds=0-7 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /images?seeds=0-7 HTTP/1.1\r\nHost: localhost\r\n\r\n\x00\xff\r\n\r\n",
    BEGUN["a body that nobody reads"] + b"zz\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n",
]


@pytest.mark.parametrize("noise", NOISE, ids=range(len(NOISE)))
def test_noise_is_no_traceback_and_no_line_of_the_log(port, noise, caplog, capfd):
    with caplog.at_level(logging.INFO):
        content, _ = wait_for_end(send(port, noise))
        assert status(ask(port, "/health")) == 200
    assert content.startswith((b"HTTP/1.1 400", b"HTTP/1.1 200")) and b"nosniff" in content
    assert caplog.records == [] and capfd.readouterr().err == ""


def test_a_body_that_is_said_to_be_too_long_is_not_asked_for(port):
    more = "POST /images HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 70000\r\n\r\n"
    assert status(send(port, more.encode())) == 413


@pytest.mark.parametrize("files", [40, 64, 128, 1024, 20_000])
def test_connections_leave_files_for_the_rest(monkeypatch, files):
    resource = pytest.importorskip("resource")
    limit = files + len([*Path("/dev/fd").iterdir()])  # this process has opened some
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    most, accepted = share_files(1000)
    assert 1 <= most <= min(1000, files - 4 * accepted) and accepted >= 1


def test_too_few_files_are_one_sentence(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))
    with pytest.raises(ValueError, match="ulimit -n"):
        share_files(1000)
