"""What every answer has: an id, `nosniff`, and a line of the log where one is wanted."""

import logging
import re

import pytest

from conftest import make_denoiser

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
testclient = pytest.importorskip("starlette.testclient", reason="starlette's test client needs httpx")

from d2o.server.application import application  # noqa: E402
from d2o.server.limits import Limits  # noqa: E402


@pytest.fixture
def client():
    made = application(make_denoiser(classes=2), "tiny", limits=Limits(max_client=2), access_log=True)
    with testclient.TestClient(made, "http://localhost", raise_server_exceptions=False) as client:
        yield client


ANSWERS = {
    "/images": 200,
    "/images?seeds=x": 400,
    "/images?seeds=0-5": 429,
    "/nothing": 404,
    "/metrics": 200,
    "/health": 500,
}


@pytest.mark.parametrize("path", ANSWERS)
def test_it_has_an_id_of_its_own_and_is_not_sniffed(client, path, monkeypatch):
    monkeypatch.setitem(application.__globals__, "describe", None)  # a fault of the program
    answers = [client.get(path), client.get(path)]
    for answer in answers:
        assert answer.status_code == ANSWERS[path] and answer.headers["x-content-type-options"] == "nosniff"
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 2 and all(re.fullmatch("[0-9a-f]{16}", one) for one in ids)


@pytest.mark.parametrize("given", ["a", "0af7651916cd43dd8448eb211c80319c", "my-id_7.B", "x" * 64])
def test_a_sane_id_is_kept(client, given):
    assert client.get("/images", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", "\x1b[31m", "\u00e9", "<script>", "a,b", "%0a"])
def test_another_is_replaced(client, given):
    answer = client.get("/images", headers={"x-request-id": given.encode()})
    assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])


@pytest.fixture
def lines():
    """Return the list of what d2o logs, wherever else that goes."""
    log, found, handler = logging.getLogger("d2o"), [], logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield found
    log.setLevel(level)
    log.removeHandler(handler)


def test_the_log_has_a_line_for_each_answer(client, lines):
    client.get("/images?seeds=1", headers={"x-request-id": "one", "authorization": "Bearer s3cret"})
    client.get("/%0Aforged%1b[31m", headers={"x-request-id": "two"})
    first, second = lines
    assert re.fullmatch(r"\S+ testclient GET /images\?seeds=1 200 [\d.]+ ms one", first)
    assert "404" in second and second.endswith("two") and second.isprintable()


def test_a_fault_names_the_request(lines):
    broken = make_denoiser()
    next(broken.parameters()).data.fill_(float("nan"))
    with testclient.TestClient(application(broken, "nan"), "http://localhost") as client:
        assert client.get("/images", headers={"x-request-id": "bad-1"}).status_code == 500
    assert ["bad-1" in line for line in lines] == [True]
