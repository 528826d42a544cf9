"""What only a real connection shows: raw request targets, missing hosts, and clients that go away."""

import json
import socket
import time
from urllib.parse import urlsplit

import pytest

from browser import application_server, wait_until
from conftest import make_denoiser

pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from d2o.server.application import application
from d2o.server.models import Models


@pytest.fixture(scope="module")
def calls():
    return []


@pytest.fixture(scope="module")
def port(calls):
    """Return the port of a page whose network is slow, and counts its calls."""

    def wait(*_):
        calls.append(1)
        time.sleep(0.02)

    denoiser = make_denoiser(classes=2)
    denoiser.backbone.register_forward_hook(wait)
    with application_server(application(denoiser, "slow", page=Models({"slow": denoiser}, {}))) as address:
        yield urlsplit(address).port


def ask(port, target, host: str | None = "localhost", method="GET", body=b"", more=()):
    """Send a request as it is written, and return the connection."""
    lines = [f"{method} {target} HTTP/1.1", f"Content-Length: {len(body)}", "Connection: close", *more]
    lines += [] if host is None else [f"Host: {host}"]
    line = socket.create_connection(("127.0.0.1", port), 30)
    line.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return line


def status(line):
    with line:
        return int(line.recv(65536).split()[1])


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


def test_a_teacher_whose_reader_went_away_stops(port, calls):
    calls.clear()
    question = json.dumps({"model": "slow", "point": ["0", "0", 0], "steps": 40}).encode()
    with ask(port, "/page/stages", method="POST", body=question) as line:
        while b"guess" not in line.recv(65536):
            pass
    wait_until(lambda: all_quiet(calls))
    assert len(calls) < 60, "all of them are 79"


def all_quiet(calls):
    before = len(calls)
    time.sleep(0.3)
    return len(calls) == before
