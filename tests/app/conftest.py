"""A page of tiny models that is served to the tests, and a run that it shows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import d2o

UPLOAD_LIMIT = 1.0


class Served(NamedTuple):
    """Where the page is, and where its runs and a checkpoint are."""

    address: str
    runs: Path
    checkpoint: Path


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Iterator[Served]:
    pytest.importorskip("gradio", reason="the page needs gradio: pip install -e '.[app]'")
    from conftest import make_denoiser  # pyright: ignore[reportAttributeAccessIssue]  # the one above this folder
    from d2o.app.models import models
    from d2o.app.server import serving
    from d2o.diffusion.families import Boundary

    place = tmp_path_factory.mktemp("app")
    for name, seed in {"student": 0, "teacher": 1, "other": 2}.items():
        denoiser = make_denoiser(seed, classes=2)
        denoiser.preconditioning = Boundary() if name == "student" else denoiser.preconditioning
        d2o.save(place / f"{name}.safetensors", denoiser)
    run = place / "runs" / "first"
    run.mkdir(parents=True)
    rows = [{"images": n, "seconds": n / 8, "loss": {"student": 2 / n, "discriminator": 1}} for n in range(8, 80, 8)]
    rows[-1]["evaluation"] = {"images": 72, "kid": 0.123, "frechet": 9.0, "images_compared": 40, "features": "pixels"}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "recipe.json").write_text('{"recipe": {"duration": 144}}')
    offered = models([str(place / "student.safetensors")], str(place / "teacher.safetensors"))
    with serving(offered, place / "runs", upload_limit=UPLOAD_LIMIT) as address:
        yield Served(address.rstrip("/"), place / "runs", place / "other.safetensors")
