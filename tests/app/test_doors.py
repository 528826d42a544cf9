"""Closed doors stay closed, whoever knocks; what comes in is counted."""

import asyncio

import pytest

from d2o.app.doors import LARGEST_MESSAGE, SLACK, UPLOAD, Doors

LIMIT = 10_000


def knock(path="/", host="127.0.0.1:7860", headers=(), body=(b"",), kind="http", local=True, folder=None):
    """Return the status of a request and how many bytes of it reached the application."""
    taken, sent = 0, []

    async def application(scope, receive, send):
        nonlocal taken
        for _ in body:
            taken += len((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})

    parts = iter(body)

    async def receive():
        return {"type": "http.request", "body": next(parts), "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "path": path, "headers": [(b"host", host.encode()), *headers]}
    asyncio.run(Doors(application, LIMIT, local, folder)(scope, receive, send))
    return sent[0]["status"], taken, dict(sent[0]["headers"])


@pytest.mark.parametrize("path", ["/", "/config", "/assets/a.js", "/gradio_api/queue/join", "/gradio_api/call/grid"])
def test_the_page_is_open(path):
    assert knock(path)[0] == 200


CLOSED = [
    *("/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/file/etc/passwd", "/gradio_api/file=https://example.org"),
    *("/gradio_api/proxy=https://example.org/x", "/proxy=https://example.org", "/gradio_api/component_server"),
    *("/gradio_api/vibe-edit/", "/monitoring", "/gradio_api/dev/reload", "/docs", "/openapi.json", "/login", "//", ""),
    *("/gradio_api/custom_component/1/client/x/y", "/gradio_api/process_recording", "/gradio_api/stream/1", "/runs"),
]


@pytest.mark.parametrize("path", CLOSED)
def test_all_else_is_closed(path):
    assert knock(path)[:2] == (403, 0)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "[::1]:80", "LOCALHOST:7860"])
def test_this_machine_may_come_in(host):
    assert knock(host=host)[0] == 200


@pytest.mark.parametrize(
    "host", ["", "example.org", "example.org:7860", "127.0.0.1.example.org", "10.0.0.1", "localhost:x"]
)
def test_a_web_site_that_names_this_machine_may_not(host):
    assert knock(host=host)[0] == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:7860", 200),
        ("http://localhost:1", 200),
        ("https://example.org", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_another_web_site_may_not_send_requests(origin, status):
    assert knock(UPLOAD, headers=[(b"origin", origin.encode())])[0] == status


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("192.0.2.7:7860", None, 200),
        ("mine.local:7860", "http://mine.local:7860", 200),
        ("Mine.local:7860", "https://mine.LOCAL:7860", 200),
        ("mine.local:7860", "http://mine.local:80", 403),
        ("mine.local:7860", "https://example.org", 403),
        ("mine.local:7860", "http://127.0.0.1:7860", 403),
        ("mine.local:7860", "null", 403),
    ],
)
def test_an_open_page_still_refuses_other_web_sites(host, origin, status):
    headers = [] if origin is None else [(b"origin", origin.encode())]
    for path in ("/", UPLOAD, "/gradio_api/call/grid"):
        assert knock(path, host, headers, local=False)[0] == status


def test_files_that_nobody_opens_do_not_fill_the_disk(tmp_path):
    """An upload has 75,536 bytes here, and all that wait together four times as many."""
    length = [(b"content-length", b"9000")]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "large").write_bytes(b"x" * (3 * (LIMIT + SLACK) - 9000))
    assert knock(UPLOAD, headers=length, folder=tmp_path)[0] == 200
    assert knock(UPLOAD, headers=length, body=[b"x" * 9001], folder=tmp_path)[0] == 413, "more than was said"
    (tmp_path / "small").touch()  # counts 65,536 bytes
    assert knock(UPLOAD, headers=length, folder=tmp_path)[0] == 200
    assert knock(UPLOAD, folder=tmp_path)[0] == 507, "of an unknown length, as large as may be"
    (tmp_path / "a" / "small").touch()
    assert knock(UPLOAD, headers=length, folder=tmp_path)[0] == 507
    assert knock("/", folder=tmp_path)[0] == 200


def test_there_are_no_sockets():
    assert knock("/gradio_api/queue/join", kind="websocket")[0] == 403


@pytest.mark.parametrize(("path", "most"), [("/gradio_api/call/x", LARGEST_MESSAGE), (UPLOAD, LIMIT + SLACK)])
def test_what_comes_in_has_an_end(path, most):
    for length in (str(most + 1), "9" * 30, "-1", "x"):
        assert knock(path, headers=[(b"content-length", length.encode())])[:2] == (413, 0)
    assert knock(path, headers=[(b"content-length", str(most).encode())], body=[b"x" * most])[:2] == (200, most)
    assert knock(path, body=[b"x" * (most // 2 + 1)] * 3)[0] == 413, "also when no length is given"


def test_a_request_that_breaks_the_application_is_answered(capsys):
    status, _, headers = knock(body=[None])
    assert status == 400 and headers[b"content-type"] == b"application/json"
    assert "TypeError" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["/", "/nothing"])
def test_the_browser_is_told_to_ask_nobody_else(path):
    policy = knock(path)[2][b"content-security-policy"].decode()
    assert "default-src 'self'" in policy and "http" not in policy.replace("https", "http") and "*" not in policy
