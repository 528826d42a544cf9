"""Addresses, against a server on this machine: fetched once, verified, never half."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import d2o
from d2o.fetch import OFFLINE_VARIABLES, fetch
from d2o.checkpoints import CheckpointError
from d2o.errors import MalformedCheckpointError

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serve CONTENT at every path; `break_at` ends a connection early."""

    break_at: int | None = None
    content = CONTENT
    redirect: str | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.tokens: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answer with the content, a redirect, or an error."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        server = self.server
        server.tokens.append(self.headers.get("Authorization"))
        server.requests.append(self.path)
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        self.wfile.write(server.content[: server.break_at])


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("D2O_CACHE", str(tmp_path / "cache"))
    for name in (*OFFLINE_VARIABLES, "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def kept(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock")


def test_a_file_is_fetched_once(server, tmp_path):
    path = fetch(f"{server.address}/edm.pkl", SHA256)
    assert path.read_bytes() == CONTENT and path.name.endswith("-edm.pkl")
    assert fetch(f"{server.address}/edm.pkl", SHA256) == path
    assert len(server.requests) == 1 and kept(tmp_path) == [path.name]


def test_a_broken_download_leaves_nothing_and_starts_again(server, tmp_path):
    server.break_at = 300_000
    with pytest.raises(CheckpointError, match=r"edm\.pkl.*300,000.*1,024,000"):
        fetch(f"{server.address}/edm.pkl")
    assert kept(tmp_path) == []
    server.break_at = None
    path = fetch(f"{server.address}/edm.pkl", SHA256)
    assert path.read_bytes() == CONTENT and kept(tmp_path) == [path.name]


def test_a_wrong_hash_leaves_nothing(server, tmp_path):
    with pytest.raises(MalformedCheckpointError, match="0" * 64):
        fetch(f"{server.address}/edm.pkl", "0" * 64)
    assert kept(tmp_path) == []


def test_a_cached_file_is_verified_too_and_fetched_again(server):
    path = fetch(f"{server.address}/edm.pkl")
    path.write_bytes(b"changed")
    assert fetch(f"{server.address}/edm.pkl", SHA256).read_bytes() == CONTENT
    path.write_bytes(b"changed")
    server.content = b"another file"
    with pytest.raises(MalformedCheckpointError, match=SHA256):
        fetch(f"{server.address}/edm.pkl", SHA256)


def test_two_at_once_fetch_once(server):
    threads = [threading.Thread(target=fetch, args=(f"{server.address}/edm.pkl",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1


def test_the_hub(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    fetch("hf://owner/model/sub/file.safetensors", SHA256)
    fetch("hf://owner/model@v2/file.safetensors")
    assert server.requests == [
        "/owner/model/resolve/main/sub/file.safetensors",
        "/owner/model/resolve/v2/file.safetensors",
    ]


@pytest.mark.parametrize("address", ["hf://model", "hf://owner/model", "hf://owner/model/../x", "hf:///x/y"])
@pytest.mark.usefixtures("server")
def test_addresses_that_name_no_file(address):
    with pytest.raises(CheckpointError, match="hf://OWNER/REPOSITORY/FILE"):
        d2o.load(address)


@pytest.mark.parametrize("address", ["http://example.com/x.pkl", "ftp://example.com/x", "file:///etc/passwd"])
@pytest.mark.usefixtures("server")
def test_other_addresses_are_not_fetched(address):
    with pytest.raises(CheckpointError, match="https://"):
        d2o.load(address)


def test_redirects_lead_nowhere_else(server):
    server.redirect = "file:///etc/passwd"
    with pytest.raises(CheckpointError, match="etc/passwd"):
        d2o.load(f"{server.address}/edm.pkl")
    server.redirect = "http://example.com/x"
    with pytest.raises(CheckpointError, match=r"example\.com"):
        d2o.load(f"{server.address}/edm.pkl")


def test_answers_that_are_no_file(server, tmp_path):
    with pytest.raises(CheckpointError, match="404"):
        d2o.load(f"{server.address}/missing.pkl")
    assert kept(tmp_path) == []


@pytest.mark.parametrize("variable", OFFLINE_VARIABLES)
def test_offline_is_an_error_at_once(server, monkeypatch, variable):
    cached = fetch(f"{server.address}/cached.pkl")
    monkeypatch.setenv(variable, "1")
    assert fetch(f"{server.address}/cached.pkl") == cached
    with pytest.raises(CheckpointError, match=variable):
        d2o.load(f"{server.address}/other.pkl")


def test_no_network_is_an_error_at_once(server):
    address = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(CheckpointError, match=r"edm\.pkl"):
        d2o.load(f"{address}/edm.pkl")


def test_a_model_at_an_address(server, tiny_denoiser, tmp_path):
    d2o.save(tmp_path / "model.safetensors", tiny_denoiser())
    server.content = (tmp_path / "model.safetensors").read_bytes()
    digest = hashlib.sha256(server.content).hexdigest()
    assert d2o.load(f"{server.address}/model.safetensors", sha256=digest).provenance["sha256"] == digest


def test_the_token_of_the_hub_goes_to_the_hub_alone(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", "secret")
    fetch("hf://owner/model/edm.pkl")
    fetch(f"{server.address}/other.pkl")
    assert server.tokens == ["Bearer secret", None]
    elsewhere = Server()
    threading.Thread(target=elsewhere.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    server.redirect = f"{elsewhere.address}/edm.pkl"
    fetch("hf://owner/model/moved.pkl")
    elsewhere.shutdown()
    elsewhere.server_close()
    assert elsewhere.tokens == [None]


def test_what_the_hubs_own_client_has_fetched_is_used(server, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    known = tmp_path / "hub" / "models--owner--model"
    (known / "refs").mkdir(parents=True)
    (known / "refs" / "main").write_text("a" * 40)
    (known / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (known / "snapshots" / ("a" * 40) / "edm.pkl").write_bytes(CONTENT)
    assert fetch("hf://owner/model/edm.pkl", SHA256).is_relative_to(known) and not server.requests


@pytest.mark.parametrize(
    "address", ["https://[::1/edm.pkl", "http://127.0.0.1:1/a b.pkl", "http://127.0.0.1:x/edm.pkl"]
)
def test_what_is_no_address(server, address):
    with pytest.raises(CheckpointError, match=r"edm\.pkl|a b\.pkl"):
        fetch(address)
