"""Who may ask: names of this server only, no page of another site, the token's owners; and browsers ask nobody else."""

import asyncio

import pytest

pytest.importorskip("starlette")

from d2o.server.access import AccessControl

WORK = ("/images", "/page/images", "/page/movie", "/page/stages", "/page/models", "/metrics")


def knock(
    host="127.0.0.1:7860", headers=(), listening="127.0.0.1", names=(), path="/", method="GET", token=None, full=False
):
    """Return the status of a request, the headers of its answer."""
    sent = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})

    async def send(message):
        sent.append(message)

    given = [(name.encode(), value.encode()) for name, value in (("host", host), *headers) if value is not None]
    access = AccessControl(application, listening, names, token, {"/", "/health"})
    scope = {"type": "http", "path": path, "method": method, "headers": given, "state": {"full": full}}
    asyncio.run(access(scope, None, send))  # type: ignore[arg-type]
    return sent[0]["status"], {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "[::1]:80", "LOCALHOST:7860"])
def test_this_machine_may_ask(host):
    assert knock(host)[0] == 200


FOREIGN = [
    *("", None, "example.org", "example.org:7860", "127.0.0.1.example.org", "localhost:x", "a@localhost", "[::1"),
    *("localhost.example.org", "127.0.0.1.nip.io", "localhost, example.org", "localhost/", "local host", "xlocalhost"),
    *("2130706433", "0x7f.1", "localhost:7860:7860", "[localhost]", "[fe80::1%25eth0]", "\u2024localhost"),
]


@pytest.mark.parametrize("listening", ["127.0.0.1", "192.0.2.7", "0.0.0.0"])
@pytest.mark.parametrize("host", FOREIGN)
def test_a_name_that_is_not_the_servers_is_refused_wherever_it_listens(host, listening):
    for path in ("/", "/health", *WORK):
        assert knock(host, listening=listening, path=path)[0] == 403


@pytest.mark.parametrize(
    ("host", "listening", "status"),
    [
        ("10.0.0.1", "127.0.0.1", 403),
        ("0.0.0.0:7860", "127.0.0.1", 403),
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
        ("mine.local:7860", "http://mine.local", 403),
        ("mine.local:7860", "http://127.0.0.1:7860", 403),
        ("127.0.0.1:7860", "http://127.0.0.1:8000", 403),
        ("127.0.0.1:7860", "https://example.org", 403),
        ("127.0.0.1:7860", "moz-extension://127.0.0.1:7860", 403),
        ("127.0.0.1:7860", "http://127.0.0.1:7860.example.org", 403),
        ("127.0.0.1:7860", "127.0.0.1:7860", 403),
        ("127.0.0.1:7860", "null", 403),
        ("127.0.0.1:7860", "", 403),
    ],
)
def test_a_page_of_another_site_may_not_ask(host, origin, status):
    for path in ("/", *WORK):
        assert knock(host, [("origin", origin)], names=["mine.local"], path=path)[0] == status


def test_of_two_origins_both_must_be_own():
    own, other = ("origin", "http://127.0.0.1:7860"), ("origin", "https://example.org")
    assert knock(headers=[own])[0] == 200
    assert knock(headers=[own, other])[0] == knock(headers=[other, own])[0] == 403


@pytest.mark.parametrize(
    ("site", "mode", "destination", "page", "work"),
    [
        ("same-origin", "cors", "empty", 200, 200),
        ("none", "navigate", "document", 200, 200),  # an address that was typed
        (None, None, None, 200, 200),  # curl
        ("cross-site", "navigate", "document", 200, 403),  # a link
        ("cross-site", "navigate", None, 200, 403),
        ("same-site", "navigate", "document", 200, 403),
        ("cross-site", "no-cors", "image", 403, 403),
        ("cross-site", "navigate", "iframe", 403, 403),
        ("cross-site", "navigate", "object", 403, 403),
        ("same-site", "cors", "empty", 403, 403),  # another port of this machine
        ("cross-site", None, None, 403, 403),
        ("same-origin, cross-site", None, None, 403, 403),
        ("strange", None, None, 403, 403),
    ],
)
def test_what_the_browser_says_of_the_site_counts_where_it_sends_no_origin(site, mode, destination, page, work):
    headers = [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", destination)]
    assert knock(headers=headers)[0] == page
    assert {knock(headers=headers, path=path)[0] for path in WORK} == {work}


def test_a_form_of_another_site_is_no_link():
    headers = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]
    assert knock(headers=headers, method="POST")[0] == 403


class TestToken:
    @pytest.mark.parametrize("path", WORK)
    def test_those_who_have_it_may_ask(self, path):
        for scheme in ("Bearer", "bearer", "BEARER "):
            assert knock(headers=[("authorization", f"{scheme} s3cret")], token="s3cret", path=path)[0] == 200
        for other in (None, "", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crets", "Bearer S3CRET", "s3cret"):
            status, headers = knock(headers=[("authorization", other)], token="s3cret", path=path)
            assert status == 401 and headers["www-authenticate"] == "Bearer"
        for other in ("Basic s3cret", "Bearer \u00e9", "Bearer s3cret,s3cret", "Bearer " + "s" * 100_000):
            assert knock(headers=[("authorization", other)], token="s3cret", path=path)[0] == 401

    def test_all_may_know_the_health_and_open_the_page(self):
        assert knock(token="s3cret")[0] == knock(token="s3cret", path="/health")[0] == 200

    def test_it_opens_no_other_door(self):
        bearer = ("authorization", "Bearer s3cret")
        assert knock("example.org", [bearer], token="s3cret")[0] == 403
        assert knock(headers=[bearer, ("origin", "https://example.org")], token="s3cret")[0] == 403


def test_a_full_house_asks_to_come_again():
    status, headers = knock(full=True)
    assert status == 503 and headers["retry-after"] and headers["connection"] == "close"


@pytest.mark.parametrize("host", ["localhost", "example.org"])
def test_the_browser_is_told_to_ask_nobody_else(host):
    headers = knock(host)[1]
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "http" not in policy and "*" not in policy and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
