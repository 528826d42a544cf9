"""A page of tiny models, for the tests that ask it."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import d2o
from conftest import make_denoiser


def examples_of(name: str) -> Sequence[str]:
    """Return the captions that a model which is asked in words has as examples."""
    reader = d2o.load(name).reader
    assert reader is not None
    return reader.examples


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Any:
    """Return a tiny student beside its teacher, and the models that come with d2o."""
    pytest.importorskip("starlette")
    from d2o.diffusion.families import Boundary
    from d2o.server.models import offer_models

    place = tmp_path_factory.mktemp("models")
    d2o.save(place / "student.safetensors", make_denoiser(0, classes=2).replace(preconditioning=Boundary()))
    d2o.save(place / "teacher.safetensors", make_denoiser(1, classes=2))
    return offer_models([str(place / "student.safetensors")], str(place / "teacher.safetensors"))


@pytest.fixture(scope="session")
def page_client(models) -> Iterator[Any]:
    """Return a client of the page's application, under a name that the application answers to."""
    testclient = pytest.importorskip("starlette.testclient", reason="starlette's test client needs httpx")
    pytest.importorskip("prometheus_client")
    from d2o.server.application import application

    name, denoiser = next(iter(models.denoisers.items()))
    made = application(denoiser, name, page=models)
    with testclient.TestClient(made, "http://localhost", raise_server_exceptions=False) as client:
        yield client
