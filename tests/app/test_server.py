"""The endpoints under fire: hostile values get a sentence, nobody a traceback or a file, and the server lives on."""

import itertools
import json
import os
import urllib.parse
from pathlib import Path

import pytest

from d2o.app.models import models
from d2o.app.server import serving

from .conftest import UPLOAD_LIMIT

pytest.importorskip("gradio", reason="the page needs gradio: pip install -e '.[app]'")
httpx = pytest.importorskip("httpx", reason="it comes with gradio")

FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
OUTSIDE = {
    "path": "http://192.0.2.1/model.pkl",
    "url": "http://192.0.2.1/model.pkl",
    "meta": {"_type": "gradio.FileData"},
}
HOSTILE = [
    None,
    "",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "\x00",
    -1,
    2.5,
    1e308,
    10**30,
    True,
    [],
    [[]],
    {},
]
HOSTILE += [
    FILE,
    OUTSIDE,
    {"__type__": "update", "value": 3},
    "9" * 5000,
    float("nan"),
    "0-999999999",
    "hf://a/b/c.pkl",
]


@pytest.fixture(scope="module")
def client(served):
    with httpx.Client(base_url=served.address, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def valid(client):
    """Return good arguments of every endpoint."""
    config = client.get("/config").json()
    names = next(c["props"]["choices"] for c in config["components"] if c["props"].get("label") == "One-step model")
    model, teacher = (
        next(value for _, value in names if value.endswith(end))
        for end in ("student.safetensors", "teacher.safetensors")
    )
    return {
        "one_step": [model, "by seed", 0, 0.5],
        "many_steps": [model, teacher, "1", 0, 0.5, 2],
        "grid": [model, "1", "0-3"],
        "interpolation": [model, "by seed", 0, 1, 3, 12],
        "learning": ["first"],
        "choose_model": [model],
        "spectrum": [model, teacher, 2, 4],
    }


def call(client, name, values):
    """Return the end of what an endpoint answers, the way gradio's clients ask: (event, data)."""
    return answered(client, name, asked(client, name, values))


def asked(client, name, values):
    """Ask an endpoint, and return what its answer is fetched with, or the answer itself where it comes at once."""
    body = json.dumps({"data": values})  # also NaN, as Python writes it
    reply = client.post(f"/gradio_api/call/{name}", content=body, headers={"content-type": "application/json"})
    if reply.status_code == 200:
        return reply.json()["event_id"]
    assert 400 <= reply.status_code <= 500
    return check(reply.text) and ("refused", reply.text)


def answered(client, name, event):
    """Return what an endpoint answers to what was asked."""
    if isinstance(event, tuple):
        return event
    lines = client.get(f"/gradio_api/call/{name}/{event}").text.strip().splitlines()
    return check("\n".join(lines)) and (lines[-2].removeprefix("event: "), lines[-1].removeprefix("data: "))


def check(text):
    """Fail when an answer shows how the program is made or what stands in a file."""
    for secret in ("Traceback", 'File "', "site-packages", "root:x:", "root:*:"):
        assert secret not in text
    return True


def upload(client, content, name="model.safetensors"):
    """Upload a file and open it; return what the page says."""
    sent = client.post("/gradio_api/upload", files={"files": (name, content)})
    assert sent.status_code == 200
    record = {"path": sent.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    return call(client, "upload_model", [record]), Path(sent.json()[0])


def test_good_values_are_answered(client, valid, monkeypatch):
    monkeypatch.setattr("d2o.analysis.page.DOTS", 40)  # of the figures, which are quicker so
    for name, values in valid.items():
        event, data = call(client, name, values)
        assert event == "complete", (name, data)
    for name in ("one_step", "grid"):
        assert "data:image/png;base64," in call(client, name, valid[name])[1]
    assert "data:image/gif;base64," in call(client, "interpolation", valid["interpolation"])[1]
    assert "3 calls" in call(client, "many_steps", valid["many_steps"])[1]
    assert "0.123" in call(client, "learning", valid["learning"])[1]
    assert "cycles per image" in call(client, "spectrum", valid["spectrum"])[1]


def test_a_page_needs_no_queue_for_its_live_image(client, valid):
    answer = client.post("/gradio_api/run/one_step", json={"data": valid["one_step"]})
    assert answer.status_code == 200 and "data:image/png;base64," in answer.json()["data"][0]


@pytest.mark.parametrize("name", ["one_step", "many_steps", "grid", "interpolation", "learning", "choose_model"])
def test_hostile_values_in_any_place_are_survived(client, valid, name):
    good = valid[name]
    for place in range(len(good)):  # asked all at once, because each waits for its turn in the queue
        events = [asked(client, name, [*good[:place], value, *good[place + 1 :]]) for value in HOSTILE]
        for value, waiting in zip(HOSTILE, events, strict=True):
            event, data = answered(client, name, waiting)
            assert event in ("complete", "error", "refused"), (name, place, value)
            assert "<script>" not in data.replace("\\u003c", "<")
    assert call(client, name, good)[0] == "complete"


def test_requests_of_a_wrong_form_are_survived(client, valid):
    bodies = [
        "",
        "{",
        "[]",
        "null",
        '{"data": null}',
        '{"data": {}}',
        '{"data": []}',
        '{"data": [1,2,3,4,5,6,7,8]}',
        "[" * 50_000,
    ]
    for body, path in itertools.product(
        bodies, ["call/one_step", "run/one_step", "call/no_such", "queue/join", "cancel"]
    ):
        answer = client.post(f"/gradio_api/{path}", content=body, headers={"content-type": "application/json"})
        check(answer.text)
        if answer.status_code == 200 and "event_id" in answer.json():  # taken, and answered with an error
            assert "event: error" in client.get(f"/gradio_api/{path}/{answer.json()['event_id']}").text
    for index in (-1, 0, 10**9, "x", None, *range(1, 20)):
        answer = client.post("/gradio_api/run/predict", json={"fn_index": index, "data": [], "session_hash": "x"})
        check(answer.text)
    assert call(client, "one_step", valid["one_step"])[0] == "complete"


def test_what_is_wrong_is_said_in_a_sentence(client, valid):
    model = valid["grid"][0]
    told = {
        ("one_step", (model, "7", 0, 0)): "Class is a number from 0 to 1",
        ("one_step", (model, "", -3, 0)): "0",
        ("one_step", ("/etc/passwd", "", 0, 0)): "There is no model",
        ("grid", (model, "", "5-1")): "runs backwards",
        ("grid", (model, "", "0-99999")): "too many for a page",
        ("learning", ("../secret",)): "There is no run",
        ("many_steps", (model, "digits-teacher", "1", 0, 0, 4)): "is no teacher for",
    }
    for (name, values), hint in told.items():
        event, data = call(client, name, list(values))
        assert event == "error" and hint in data, (name, values, data)


class TestFiles:
    @pytest.mark.parametrize(
        "path", ["/etc/passwd", "{checkpoint}", "{runs}/first/metrics.jsonl", "{here}", "https://example.org"]
    )
    def test_none_is_served(self, client, served, path):
        path = path.format(checkpoint=served.checkpoint, runs=served.runs, here=__file__)
        for door in ("/gradio_api/file=", "/file=", "/gradio_api/proxy=", "/static/../../..", "/assets/../../../.."):
            for spelled in (path, urllib.parse.quote(path, safe=""), path.replace("/", "//"), f"..{path}"):
                answer = client.get(f"{door}{spelled}")
                assert answer.status_code in (403, 404), (door, spelled)
                check(answer.text)

    def test_not_even_an_upload_is(self, client):
        sent = client.post("/gradio_api/upload", files={"files": ("a.bin", b"secret")}).json()[0]
        assert Path(sent).read_bytes() == b"secret" and Path(sent).stat().st_uid == os.getuid()
        assert client.get(f"/gradio_api/file={sent}").status_code == 403

    def test_a_path_or_an_address_is_no_upload(self, client, served):
        for path in ("/etc/passwd", str(served.checkpoint), OUTSIDE["path"], "", "\x00", "../x"):
            record = {"path": path, "meta": {"_type": "gradio.FileData"}}
            assert call(client, "upload_model", [record])[0] in ("error", "refused")
            assert call(client, "upload_model", [{**record, "url": OUTSIDE["url"]}])[0] in ("error", "refused")
        assert served.checkpoint.exists()


class TestUploads:
    def test_a_checkpoint_is_opened_and_its_file_is_gone(self, client, served, valid):
        (event, data), path = upload(client, served.checkpoint.read_bytes(), "mine.safetensors")
        assert event == "complete" and json.loads(data)[0]["value"] == "mine.safetensors"
        assert not path.exists()
        assert call(client, "one_step", ["mine.safetensors", "0", 3, 0])[0] == "complete"

    @pytest.mark.parametrize(
        "content", [b"hello", b"<html>", b"\x80\x04cos\nsystem\n(S'true'\ntR.", b"PK\x03\x04" * 9, b"\x00" * 99]
    )
    def test_what_is_none_is_told(self, client, content):
        (event, data), path = upload(client, content, "<b>bad.pkl")
        assert event == "error" and "bad.pkl" in data and "<b>" not in data and str(path.parent) not in data
        assert not path.exists()

    def test_a_large_one_is_refused(self, client):
        much = b"x" * int(1.2 * UPLOAD_LIMIT * 2**20)
        assert client.post("/gradio_api/upload", files={"files": ("a.bin", much)}).status_code == 413
        several = [("files", (f"{n}.bin", much[: 2**19])) for n in range(4)]
        assert client.post("/gradio_api/upload", files=several).status_code == 413

    @pytest.mark.parametrize("name", ["../../../x", "/etc/x", "a/../../x", "\x00", "", "." * 300, "con", "a\nb"])
    def test_a_name_leads_nowhere(self, client, name):
        answer = client.post("/gradio_api/upload", files={"files": (name, b"content")})
        check(answer.text)
        for path in answer.json() if answer.status_code == 200 else []:
            assert Path(path).resolve().is_relative_to(os.environ["GRADIO_TEMP_DIR"])


def test_other_hosts_and_origins_are_kept_out(client):
    assert client.get("/", headers={"host": "example.org"}).status_code == 403
    answer = client.get("/config", headers={"origin": "https://example.org"})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


def test_it_listens_on_this_machine_alone(served):
    assert served.address.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"runs": Path("nowhere")}, "There is no folder nowhere"),
        ({"upload_limit": 0}, "--upload-limit"),
        ({"upload_limit": float("nan")}, "--upload-limit"),
        ({"port": 0}, "--port"),
        ({"port": 99999}, "--port"),
    ],
)
def test_wrong_options_are_a_sentence(options, hint):
    with pytest.raises(ValueError, match=hint), serving(models([]), **options):
        raise AssertionError


def test_a_port_that_is_taken_is_a_sentence(served):
    port = int(served.address.rsplit(":", 1)[1])
    with pytest.raises(ValueError, match=f"Port {port} is taken"), serving(models([]), port=port):
        raise AssertionError
