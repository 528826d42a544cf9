"""Who may ask: names of this server only, no page of another site; and browsers are told to ask nobody."""

import asyncio

import pytest

pytest.importorskip("starlette")

from d2o.server.access import AccessControl


def knock(host="127.0.0.1:7860", headers=(), kind="http", listening="127.0.0.1", names=()):
    """Return the status of a request, the headers of its answer."""
    sent = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})

    async def send(message):
        sent.append(message)

    given = [(name.encode(), value.encode()) for name, value in (("host", host), *headers) if value is not None]
    access = AccessControl(application, listening, names)
    asyncio.run(access({"type": kind, "path": "/", "method": "GET", "headers": given}, None, send))  # type: ignore[arg-type]
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "[::1]:80", "LOCALHOST:7860"])
def test_this_machine_may_ask(host):
    assert knock(host)[0] == 200


FOREIGN = ["", None, "example.org", "example.org:7860", "127.0.0.1.example.org", "localhost:x", "a@localhost", "[::1"]


@pytest.mark.parametrize("listening", ["127.0.0.1", "192.0.2.7", "0.0.0.0"])
@pytest.mark.parametrize("host", FOREIGN)
def test_a_name_that_is_not_the_servers_is_refused_wherever_it_listens(host, listening):
    assert knock(host, listening=listening)[0] == 403


@pytest.mark.parametrize(
    ("host", "listening", "status"),
    [
        ("10.0.0.1", "127.0.0.1", 403),
        ("192.0.2.7:7860", "192.0.2.7", 200),
        ("192.0.2.8:7860", "192.0.2.7", 403),
        ("192.0.2.7:7860", "0.0.0.0", 200),
        ("[2001:db8::1]:80", "::", 200),
        ("mine.local:7860", "mine.local", 200),
    ],
)
def test_a_server_is_known_by_where_it_listens(host, listening, status):
    assert knock(host, listening=listening)[0] == status


def test_other_names_can_be_allowed():
    assert knock("Images.example.org", names=["images.Example.org"])[0] == 200
    assert knock("example.org", names=["images.example.org"])[0] == 403


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:7860", "http://127.0.0.1:7860", 200),
        ("Mine.local:7860", "https://mine.LOCAL:7860", 200),
        ("mine.local:7860", "http://mine.local:80", 403),
        ("mine.local:7860", "http://127.0.0.1:7860", 403),
        ("127.0.0.1:7860", "http://127.0.0.1:8000", 403),
        ("127.0.0.1:7860", "https://example.org", 403),
        ("127.0.0.1:7860", "null", 403),
        ("127.0.0.1:7860", "", 403),
    ],
)
def test_a_page_of_another_site_may_not_ask(host, origin, status):
    assert knock(host, [("origin", origin)], names=["mine.local"])[0] == status


@pytest.mark.parametrize(
    ("site", "destination", "status"),
    [
        ("same-origin", "empty", 200),
        ("none", "document", 200),
        ("cross-site", "document", 200),  # a link to the page
        ("cross-site", "image", 403),
        ("cross-site", "iframe", 403),
        ("same-site", "empty", 403),
        ("cross-site", None, 403),
    ],
)
def test_what_the_browser_says_of_the_site_counts_where_it_sends_no_origin(site, destination, status):
    assert knock(headers=[("sec-fetch-site", site), ("sec-fetch-dest", destination)])[0] == status


@pytest.mark.parametrize("host", ["localhost", "example.org"])
def test_the_browser_is_told_to_ask_nobody_else(host):
    headers = knock(host)[1]
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "http" not in policy and "*" not in policy and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
