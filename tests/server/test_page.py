"""The page's endpoints under fire: good values get images, others a sentence, and nobody a traceback or a file."""

import base64
import io
import json
import urllib.parse
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageSequence

from conftest import make_denoiser
from d2o.data.files import to_uint8
from d2o.diffusion.sampling import generate

from .offered import models, page_client

__all__ = ["models", "page_client"]

MODEL, TEACHER = "student.safetensors", "teacher.safetensors"
IMAGES = {"model": MODEL, "points": [["0", "1", 0.5], [3, 3, 0]], "class": 1}
STAGES = {"model": TEACHER, "point": ["3", "4", 0], "class": None, "steps": 2}
MOVIE = {"model": MODEL, "first": "1", "second": "4", "frames": "3"}
FILE = {"path": "/etc/passwd", "url": "http://192.0.2.1/model.pkl"}
HOSTILE = [
    *("", "../../etc/passwd", "<script>alert(1)</script>", "\x00", "9" * 5000, "0-999999999", "hf://a/b/c.pkl"),
    *(-1, 2.5, 1e308, 10**30, True, float("nan"), float("inf"), [], [[]], {}, FILE, [FILE], [[None] * 3], [["0"] * 3]),
    *([[0, 0, float("nan")]], [[0, 0, 1.1]], [[-1, 0, 0]], [[2**63, 0, 0]], [[0, 0, 0]] * 300, ["0", "1", True]),
]


def pixels(record):
    return np.frombuffer(base64.b64decode(record["pixels"]), np.uint8).reshape(record["shape"])


def post(client, address, question):
    """Ask, and check that an answer shows neither how the program is made nor what stands in a file."""
    answer = client.post(address, content=question if isinstance(question, str | bytes) else json.dumps(question))
    for secret in ("Traceback", 'File "', "site-packages", "root:x:"):
        assert secret not in answer.text
    return answer


def stages(answer):
    return [json.loads(line) for line in answer.text.splitlines()]


class TestAnswers:
    def test_images_of_seeds_are_those_of_generate(self, page_client, models):
        question = {"model": MODEL, "points": [[str(seed), "0", 0] for seed in (3, 2**63 - 1)]}
        found = post(page_client, "/page/images", question).json()
        expected = to_uint8(next(generate(models.denoisers[MODEL], [3, 2**63 - 1])))
        assert np.array_equal([pixels(record) for record in found["pictures"]], expected)
        assert found["milliseconds"] > 0

    def test_a_class_can_be_chosen(self, page_client, models):
        found = post(page_client, "/page/images", {"model": MODEL, "points": [[4, 4, 0]], "class": 1}).json()
        expected = to_uint8(next(generate(models.denoisers[MODEL], [4], condition=1)))
        assert np.array_equal(pixels(found["pictures"][0]), expected[0])

    def test_a_prompt_can_be_asked_of_a_model_that_reads_words(self, page_client, models):
        question = {"points": [[4, 4, 0]], "prompt": "a small red circle at the top"}
        found = post(page_client, "/page/images", {**question, "model": "shapes-small"}).json()
        expected = to_uint8(next(generate(models.denoisers["shapes-small"], [4], condition=question["prompt"])))
        assert np.array_equal(pixels(found["pictures"][0]), expected[0])
        assert post(page_client, "/page/images", {**question, "model": MODEL}).status_code == 400

    def test_words_that_are_left_out_are_named(self, page_client):
        question = {
            "model": "shapes-small",
            "points": [[4, 4, 0]],
            "prompt": "a red circel",
            "towards": "a bleu square",
        }
        assert post(page_client, "/page/images", question).json()["unknown"] == ["circel", "bleu"]
        assert post(page_client, "/page/images", IMAGES).json()["unknown"] == []

    def test_a_blend_leads_from_one_prompt_to_another(self, page_client, models):
        prompts = {"prompt": "a small red circle at the top", "towards": "a large blue square at the left"}
        question = {"model": "shapes-small", "points": [[4, 4, 0, 0], [4, 4, 0, 1]], **prompts}
        found = post(page_client, "/page/images", question).json()["pictures"]
        for record, prompt in zip(found, prompts.values(), strict=True):
            expected = to_uint8(next(generate(models.denoisers["shapes-small"], [4], condition=prompt)))[0]
            assert np.abs(pixels(record).astype(int) - expected).max() <= 1
        for wrong in ({"model": MODEL}, {"towards": "xyz"}, {"points": [[4, 4, 0, 2]]}):
            assert post(page_client, "/page/images", {**question, **wrong}).status_code == 400

    def test_the_teachers_stages_end_in_its_image(self, page_client, models):
        found = stages(post(page_client, "/page/stages", {**STAGES, "steps": 3}))
        assert [stage["calls"] for stage in found] == [2, 4, 5]
        assert [stage["sigma"] for stage in found] == sorted((stage["sigma"] for stage in found), reverse=True)
        assert all(a["milliseconds"] < b["milliseconds"] for a, b in pairwise(found))
        expected = to_uint8(next(generate(models.denoisers[TEACHER], [3], steps=3)))
        assert np.array_equal(pixels(found[-1]["result"]), expected[0])

    def test_a_movie_goes_there_and_back_without_end(self, page_client):
        answer = page_client.get("/page/movie", params={**MOVIE, "frames": 5})
        assert answer.headers["content-type"] == "image/gif"
        picture = Image.open(io.BytesIO(answer.content))
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(picture)]
        assert len(frames) == 8 and frames[0].shape == (256, 256) and picture.info["loop"] == 0
        assert all(np.array_equal(frames[i], frames[-i]) for i in (1, 2, 3))

    def test_models_are_described_with_their_teachers(self, page_client):
        found = {model["name"]: model for model in page_client.get("/page/models").json()["models"]}
        assert next(iter(found)) == MODEL and found[MODEL]["teachers"][0] == TEACHER
        assert found["cifar10-small"]["teachers"][0] == "cifar10-small-teacher"

    def test_the_endpoint_of_serve_is_there_for_the_first_model(self, page_client):
        assert page_client.get("/images?seeds=0").headers["content-type"] == "image/png"
        assert page_client.get("/health").json()["model"] == MODEL
        assert "d2o_images_total" in page_client.get("/metrics").text


class TestFire:
    @pytest.mark.parametrize("address", ["images", "stages"])
    def test_hostile_values_in_any_place_are_a_sentence(self, page_client, address):
        good = {"images": IMAGES, "stages": STAGES}[address]
        for key in good:
            for value in HOSTILE:
                answer = post(page_client, f"/page/{address}", {**good, key: value})
                if answer.status_code != 200:  # some of them are good in some places
                    assert answer.status_code == 400 and list(answer.json()) == ["error"], (key, value)
            answer = post(page_client, f"/page/{address}", {**good, key: HOSTILE[1]})
            assert answer.status_code == 400, key
        assert post(page_client, f"/page/{address}", good).status_code == 200

    def test_hostile_addresses_of_movies_are_a_sentence(self, page_client):
        for key in MOVIE:
            for value in ("", "../x", "-1", "1e9", "9" * 300, "\x00", "121"):
                answer = page_client.get("/page/movie", params={**MOVIE, key: value})
                assert answer.status_code == (200 if value == "121" and key in ("first", "second") else 400), key

    @pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"points": null}', "[" * 50_000, b"\xff\xfe"])
    def test_bodies_of_a_wrong_form_are_a_sentence(self, page_client, body):
        for address in ("/page/images", "/page/stages"):
            answer = post(page_client, address, body)
            assert answer.status_code == 400 and list(answer.json()) == ["error"]

    @pytest.mark.parametrize(
        ("address", "question", "hint"),
        [
            ("images", {**IMAGES, "model": "/etc/passwd"}, "no model"),
            ("images", {**IMAGES, "model": "digits-smal"}, "digits-small"),
            ("images", {**IMAGES, "class": 7}, "0 to 1"),
            ("images", {**IMAGES, "points": [[0, 0, 0]] * 257}, "256"),
            ("images", {**IMAGES, "points": [["-3", 0, 0]]}, "points.0.0"),
            ("images", {**IMAGES, "codec": "/tmp"}, "codec"),
            ("stages", {**STAGES, "steps": 41}, "steps"),
        ],
    )
    def test_what_is_wrong_is_named(self, page_client, address, question, hint):
        answer = post(page_client, f"/page/{address}", question)
        assert answer.status_code == 400 and hint in answer.json()["error"]

    def test_a_long_body_is_not_read(self, page_client):
        for body in (b" " * 70_000, (b" " * 30_000 for _ in range(9))):
            assert page_client.post("/page/images", content=body).status_code == 413

    def test_a_name_in_a_refusal_is_no_page(self, page_client):
        answer = post(page_client, "/page/images", {**IMAGES, "model": "<script>alert(1)</script>"})
        assert answer.status_code == 400 and answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"

    @pytest.mark.parametrize("root", ["", "/page", "/page/models", "/file=", "/static", "/.."])
    def test_no_path_is_read(self, page_client, root, models):
        for path in ("/etc/passwd", "/server/page.py", "/__init__.py", "/engine-browser.js", f"/{MODEL}", __file__):
            for spelled in (path, urllib.parse.quote(path, safe=""), f"/..{path}", f"/%2e%2e{path}", f"//{path}"):
                assert page_client.get(f"{root}{spelled}").status_code in (404, 405), spelled

    def test_other_hosts_and_sites_are_kept_out(self, page_client):
        for headers in ({"host": "example.org"}, {"origin": "https://example.org"}, {"sec-fetch-site": "cross-site"}):
            for answer in (
                page_client.get("/", headers=headers),
                page_client.get("/page/models", headers=headers),
                page_client.post("/page/images", json=IMAGES, headers=headers),
            ):
                assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
                assert "content-security-policy" in answer.headers

    def test_there_are_no_sockets(self, page_client):
        from starlette.websockets import WebSocketDisconnect

        with pytest.raises(WebSocketDisconnect), page_client.websocket_connect("/page/stages"):
            raise AssertionError

    def test_a_network_that_fails_is_a_sentence_without_details(self, tmp_path):
        testclient = pytest.importorskip("starlette.testclient")
        import torch

        from d2o.server.application import application
        from d2o.server.models import Models

        broken = make_denoiser(classes=2)
        with torch.no_grad():
            next(broken.parameters()).fill_(float("nan"))
        made = application(broken, "nan", page=Models({"nan": broken}, {}))
        with testclient.TestClient(made, "http://localhost", raise_server_exceptions=False) as client:
            answer = post(client, "/page/images", {"model": "nan", "points": [[0, 0, 0]]})
            assert answer.status_code == 500 and "NaN" not in answer.text
            (line,) = stages(post(client, "/page/stages", {"model": "nan", "point": [0, 0, 0]}))
            assert "log" in line["error"] and "NaN" not in line["error"]
            assert client.get("/page/models").status_code == 200

    @pytest.mark.parametrize(("limit", "status"), [("max_queue", 503), ("max_client", 429)])
    def test_too_much_at_once_asks_to_come_again(self, models, limit, status):
        testclient = pytest.importorskip("starlette.testclient")
        from d2o.server.application import application
        from d2o.server.limits import Limits

        made = application(models.denoisers[MODEL], MODEL, page=models, limits=Limits(**{limit: 1}))
        with testclient.TestClient(made, "http://localhost") as client:
            for answer in (post(client, "/page/images", IMAGES), client.get("/page/movie", params=MOVIE)):
                assert answer.status_code == status and answer.headers["retry-after"] == "1"
            (line,) = stages(post(client, "/page/stages", STAGES))
            assert "later" in line["error"]
            assert post(client, "/page/images", {**IMAGES, "points": [[1, 1, 0]]}).status_code == 200
