"""The OpenAPI document: every address answers as it says, takes what it lists, and refuses the rest as it says."""

import json
import re

import pytest

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
testclient = pytest.importorskip("starlette.testclient", reason="starlette's test client needs httpx")

from conftest import make_denoiser  # noqa: E402
from d2o.server.application import application  # noqa: E402

from .offered import models, page_client  # noqa: E402

__all__ = ["models", "page_client"]

MODEL, POINT = "student.safetensors", [0, 1, 0.5]
ASKED = {  # of addresses that read a query, something that they answer
    "/images": {"seeds": "0-1", "class": 1, "format": "webp"},
    "/page/images": {"model": MODEL, "points": [POINT], "class": [1]},
    "/page/stages": {"model": MODEL, "point": POINT, "steps": 2},
    "/page/movie": {"model": MODEL, "first": 0, "second": 1, "frames": 2},
}


@pytest.fixture(scope="module")
def document(page_client):
    return page_client.get("/openapi.json").json()


def ask(client, method, path, query):
    given = {"json": query} if method == "post" else {"params": query}
    return client.request(method, path, **({} if query is None else given))


def test_every_address_answers_as_described(page_client, document):
    assert {"/", "/images", "/health", "/metrics", "/openapi.json", *ASKED} <= document["paths"].keys()
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            answer = ask(page_client, method, path, ASKED.get(path))
            assert answer.status_code == 200, f"{method} {path}: {answer.text[:200]}"
            assert answer.headers["content-type"] in described["responses"]["200"]["content"], path


def test_other_methods_and_addresses_are_refused(page_client, document):
    for path, methods in document["paths"].items():
        for method in {"get", "post", "put"} - methods.keys():
            assert page_client.request(method, path).status_code == 405
    assert page_client.get("/docs").status_code == 404


def test_what_is_asked_is_what_is_described(page_client, document):
    for path, query in ASKED.items():
        for method, described in document["paths"][path].items():
            keys, required = keys_of(document, described)
            assert query.keys() <= keys
            for wrong in (
                {**query, "no-such-key": "1"},
                *({k: v for k, v in query.items() if k != r} for r in required),
            ):
                answer = ask(page_client, method, path, wrong)
                assert answer.status_code == 400 and answer.json().keys() == {"error"}
                refusal = described["responses"]["default"]["content"][answer.headers["content-type"]]["schema"]
                assert look_up(document, refusal)["required"] == ["error"]
            (listed,) = re.findall(
                r"ask for (.*)\.$", ask(page_client, method, path, {"x": 1, **query}).json()["error"]
            )
            assert set(listed.split(", ")) == keys


def look_up(document, schema):
    """Return the schema that another refers to."""
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]


def keys_of(document, described):
    """Return the keys that a method reads, and those that it requires."""
    if "parameters" in described:
        rows = described["parameters"]
        return {row["name"] for row in rows}, {row["name"] for row in rows if row["required"]}
    schema = look_up(document, described["requestBody"]["content"]["application/json"]["schema"])
    return schema["properties"].keys(), set(schema.get("required", ()))


def test_an_address_says_single_values_and_a_body_lists(document):
    parameters = {row["name"]: row["schema"] for row in document["paths"]["/images"]["get"]["parameters"]}
    body = look_up(document, {"$ref": "#/SeedsQuery"})["properties"]
    assert {kind["type"] for kind in parameters["seeds"]["anyOf"]} == {"string", "integer"}
    assert {kind["type"] for kind in body["seeds"]["anyOf"]} == {"string", "integer", "array"}
    assert parameters["format"]["enum"] == ["png", "webp", "npy"]


def test_every_reference_leads_somewhere(document):
    for name in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)):
        assert name in document["components"]["schemas"]


def test_what_wants_the_token_is_described_so():
    made = application(make_denoiser(), "tiny", names=("testserver",), token="secret")
    with testclient.TestClient(made) as client:
        assert client.get("/openapi.json").status_code == 401
        found = client.get("/openapi.json", headers={"Authorization": "Bearer secret"}).json()
        for path, methods in found["paths"].items():
            is_free = methods["get"].get("security", found["security"]) == []
            assert is_free == (client.get(path).status_code == 200)
