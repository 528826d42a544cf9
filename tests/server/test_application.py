"""The endpoint: the images of `generate`, refusals in one sentence, shared batches, and a server that survives."""

import asyncio
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from d2o.data.files import grid, to_uint8
from d2o.diffusion.sampling import generate

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
testclient = pytest.importorskip("starlette.testclient", reason="starlette's test client needs httpx")

from d2o.server.application import application  # noqa: E402
from d2o.server.limits import Limits  # noqa: E402


def known_application(denoiser, name, **options):
    """Return an application that answers to the name that starlette's test client gives it."""
    return application(denoiser, name, names=("testserver",), **options)


LIMITS = Limits(batch=4, max_seeds=8, max_queue=12, max_body=300, timeout=5.0)


@pytest.fixture(scope="module")
def denoiser():
    from conftest import make_denoiser

    return make_denoiser(channels=3, classes=4)


@pytest.fixture(scope="module")
def client(denoiser):
    with testclient.TestClient(known_application(denoiser, "tiny", limits=LIMITS)) as client:
        yield client


def made(denoiser, seeds, label=None):
    return to_uint8(torch.cat(list(generate(denoiser, seeds, condition=label))))


def near(a, b):
    """Batches of other sizes may round differently."""
    return np.abs(a.astype(int) - b.astype(int)).max() <= 1


def pixels(answer):
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/octet-stream":
        return np.load(io.BytesIO(answer.content), allow_pickle=False)
    image = np.asarray(Image.open(io.BytesIO(answer.content)))
    return image[..., None] if image.ndim == 2 else image


class TestImages:
    def test_arrays_are_those_of_generate_whatever_the_batch(self, client, denoiser):
        found = pixels(client.get("/images?seeds=0-5,9&format=npy"))
        assert found.dtype == np.uint8 and near(found, made(denoiser, [0, 1, 2, 3, 4, 5, 9]))

    def test_a_post_may_repeat_seeds_and_give_each_a_class(self, client, denoiser):
        asked = {"seeds": [5, 5, 2**63 - 1], "class": [0, 3, 1], "format": "npy"}
        assert near(pixels(client.post("/images", json=asked)), made(denoiser, asked["seeds"], asked["class"]))

    @pytest.mark.parametrize("kind", ["png", "webp"])
    def test_pictures_are_lossless_grids(self, client, denoiser, kind):
        answer = client.get(f"/images?seeds=0-4&class=2&format={kind}")
        assert answer.headers["content-type"] == f"image/{kind}"
        assert near(pixels(answer), grid(made(denoiser, range(5), 2), scale=1, gap=0))
        assert pixels(client.get(f"/images?format={kind}")).shape == (8, 8, 3)

    def test_a_class_may_be_a_name(self, denoiser):
        named = denoiser.replace(class_names=("cat", "dog", "emu", "yak"))
        with testclient.TestClient(known_application(named, "named", limits=LIMITS)) as client:
            assert near(pixels(client.get("/images?class=emu&format=npy")), made(denoiser, [0], 2))
            asked = {"seeds": [1, 2], "class": ["dog", 3], "format": "npy"}
            assert near(pixels(client.post("/images", json=asked)), made(denoiser, [1, 2], [1, 3]))
            assert "'emu'" in client.get("/images?class=emus").json()["error"]
            assert client.get("/health").json()["class_names"] == ["cat", "dog", "emu", "yak"]
            assert "cat, dog, emu, yak" in client.get("/").text

    def test_grey_pictures_of_a_model_without_classes(self, tiny_denoiser):
        denoiser = tiny_denoiser()
        with testclient.TestClient(known_application(denoiser, "grey", steps=2)) as client:
            found = pixels(client.get("/images?seeds=7"))
            assert near(found, to_uint8(next(generate(denoiser, [7], steps=2)))[0])
            assert client.get("/images?class=0").status_code == 400
            assert "without classes" in client.get("/").text


WRONG = {
    "/images?seeds=a": "'a'",
    "/images?seeds=": "seed",
    "/images?seeds=-1": "'-1'",
    "/images?seeds=5-2": "backwards",
    "/images?seeds=0-8": "more than 8",
    "/images?seeds=0-9223372036854775807": "more than 8",
    "/images?seeds=99999999999999999999": "seed",
    "/images?seeds=1,2,3,4,5,6,7,8,9": "more than 8",
    "/images?class=4": "0 to 3",
    "/images?class=1.5": "class",
    "/images?class=1.0": "class",
    "/images?class=": "class",
    "/images?format=gif": "'png', 'webp' or 'npy'",
    "/images?steps=18": "steps",
    "/images?seeds=1&seeds=2": "once",
}
BODIES = {
    b"": "JSON",
    b"{": "JSON",
    b"[1]": "object",
    b"null": "object",
    b"\xff\xfe": "JSON",
    b"[" * 290: "JSON",
    b'{"seeds": []}': "seeds",
    b'{"seeds": [true]}': "seeds.0",
    b'{"seeds": 1e3}': "seeds.0",
    b'{"seeds": [1.0]}': "seeds.0",
    b'{"seeds": {}}': "seeds.0",
    b'{"seeds": [-1]}': "equal to 0",
    b'{"seeds": [1, 2, 3, 4, 5, 6, 7, 8, 9]}': "at most 8",
    b'{"seeds": 9223372036854775808}': "9223372036854775807",
    b'{"seeds": [1, 2], "class": [1]}': "2 seeds but 1",
    b'{"class": [4]}': "0 to 3",
    b'{"class": "x"}': "class",
    b'{"class": NaN}': "class",
    b'{"class": [99999999999999999999]}': "class",
    b'{"format": ["png"]}': "'png', 'webp' or 'npy'",
    b'{"sed": 1}': "sed",
}


class TestRefusals:
    @pytest.mark.parametrize("origin", ["https://example.org", "null", "http://testserver.example.org"])
    def test_a_page_of_another_site_gets_no_images(self, client, origin):
        for answer in (
            client.get("/images", headers={"origin": origin}),
            client.post("/images", json={"seeds": 1}, headers={"origin": origin}),
        ):
            assert answer.status_code == 403 and "another web site" in answer.json()["error"]
        assert client.get("/images", headers={"origin": "http://testserver"}).status_code == 200
        assert 'd2o_requests_total{status="403"}' in client.get("/metrics").text

    def test_an_image_in_a_page_of_another_site_is_refused(self, client):
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}
        assert client.get("/images", headers=headers).status_code == 403

    def test_another_host_is_refused(self, client):
        answer = client.get("/images", headers={"host": "example.org"})
        assert answer.status_code == 403 and "--allow-host" in answer.json()["error"]

    @pytest.mark.parametrize(("address", "hint"), WRONG.items(), ids=WRONG)
    def test_a_wrong_address_is_one_sentence(self, client, address, hint):
        answer = client.get(address)
        assert answer.status_code == 400 and list(answer.json()) == ["error"] and hint in answer.json()["error"]

    @pytest.mark.parametrize(("body", "hint"), BODIES.items(), ids=[str(body[:25]) for body in BODIES])
    def test_a_wrong_body_is_one_sentence(self, client, body, hint):
        answer = client.post("/images", content=body)
        assert answer.status_code == 400 and hint in answer.json()["error"]

    def test_a_long_body_is_not_read(self, client):
        assert client.post("/images", content=b" " * 301).status_code == 413
        assert client.post("/images", content=(b" " * 100 for _ in range(9))).status_code == 413

    def test_unknown_addresses_and_methods(self, client):
        assert client.get("/image").status_code == 404 and "see /" in client.get("/image").json()["error"]
        assert client.get("/../../etc/passwd").status_code == 404
        assert client.delete("/images").status_code == 405 and "GET" in client.delete("/images").headers["allow"]
        assert client.post("/images?seeds=1", json={}).status_code == 400

    def test_a_full_queue_asks_to_come_again(self, denoiser):
        narrow = Limits(max_seeds=8, max_queue=4)
        with testclient.TestClient(known_application(denoiser, "tiny", limits=narrow)) as client:
            answer = client.get("/images?seeds=0-4")
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
            assert client.get("/images?seeds=0-3").status_code == 200

    def test_too_slow_is_said_and_forgotten(self, denoiser):
        with testclient.TestClient(known_application(denoiser, "tiny", limits=Limits(timeout=1e-4))) as client:
            answer = client.get("/images?seeds=0-9")
            assert answer.status_code == 504 and "fewer" in answer.json()["error"]
            assert client.get("/health").status_code == 200

    def test_a_failing_network_is_a_500_without_details_and_the_server_goes_on(self, tiny_denoiser):
        broken = tiny_denoiser()
        with torch.no_grad():
            next(broken.parameters()).fill_(float("nan"))
        with testclient.TestClient(known_application(broken, "nan"), raise_server_exceptions=False) as client:
            for _ in range(2):
                answer = client.get("/images")
                assert answer.status_code == 500 and "log" in answer.json()["error"] and "NaN" not in answer.text
            assert client.get("/health").json()["status"] == "ok"
            assert 'd2o_requests_total{status="500"} 2.0' in client.get("/metrics").text


class TestBatches:
    def test_requests_that_come_together_share_batches_and_stay_apart(self, denoiser):
        limits = Limits(batch=8, max_queue=100)
        with (
            testclient.TestClient(known_application(denoiser, "tiny", limits=limits)) as client,
            ThreadPoolExecutor(16) as crowd,
        ):
            answers = list(crowd.map(lambda seed: client.get(f"/images?seeds={seed}&format=npy"), range(32)))
            assert near(np.concatenate([pixels(answer) for answer in answers]), made(denoiser, range(32)))
            text = client.get("/metrics").text
        assert "d2o_images_total 32.0" in text and 'd2o_requests_total{status="200"} 32.0' in text

    def test_what_gathers_during_a_batch_is_the_next_one(self):
        from d2o.server.measures import Measures
        from d2o.server.network import Network

        sizes, begin = [], threading.Event()

        def make(seeds, _):
            sizes.append(len(seeds))
            return np.array(seeds)

        async def story():
            network = Network(make, Limits(batch=4, max_queue=100), Measures())
            network.thread.submit(begin.wait)  # as if a batch were being computed
            asked = [asyncio.create_task(network.images([10 * i, 10 * i + 1], None)) for i in range(5)]
            await asyncio.sleep(0)
            asked[1].cancel()  # a client that went away: nobody computes its images
            await asyncio.sleep(0.01)
            begin.set()
            return await asyncio.gather(*asked, return_exceptions=True)

        found = asyncio.run(story())
        assert sizes == [4, 4]
        assert isinstance(found.pop(1), asyncio.CancelledError)
        assert [np.asarray(row).tolist() for row in found] == [[0, 1], [20, 21], [30, 31], [40, 41]]


class TestWatching:
    def test_health_says_what_is_served(self, client, denoiser):
        facts = client.get("/health").json()
        assert facts["status"] == "ok" and facts["model"] == "tiny" and facts["image_shape"] == [3, 8, 8]
        assert facts["num_classes"] == 4

    def test_metrics_are_prometheus_text(self, client):
        client.get("/images?seeds=0-2")
        answer = client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        from prometheus_client.parser import text_string_to_metric_families

        names = {family.name for family in text_string_to_metric_families(answer.text)}
        assert {"d2o_requests", "d2o_images", "d2o_batch_images", "d2o_waiting_images", "d2o_request_seconds"} <= names

    def test_the_front_page_documents_the_endpoint(self, client):
        text = client.get("/").text
        assert "/images?seeds=" in text and "at most 8" in text and "uint8 [N, 8, 8, 3]" in text
        assert json.loads(text.split("POST /images")[1].splitlines()[0]).keys() == {"seeds", "class", "format"}
