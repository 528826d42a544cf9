"""The server as a Starlette application: /images, /health and /metrics, and with models to choose from the page."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import d2o
from d2o.data.files import to_uint8
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate
from d2o.pages.play import describe

from .access import AccessControl
from .limits import Limits
from .measures import CountAnswers, Measures
from .models import Models
from .network import FAILED, Network
from .page import Page
from .pictures import MEDIA_TYPES, encode
from .query import SeedsQuery, read

USAGE = """d2o {version} serves {name}: images of {width}x{height} pixels, {classes}.

GET  /images?seeds=0-7&class=3&format=png
POST /images   {{"seeds": [0, 1, 7], "class": [3, 3, 5], "format": "npy"}}

seeds   a number, "0-7" or "1,5,9", in JSON also a list; at most {seeds}. An image depends on its seed and class only.
class   a number, in JSON also a list of one a seed; left out: seed modulo the number of classes.
format  png or webp: one image, or a grid of several, row by row; npy: uint8 [N, {height}, {width}, {channels}].

GET /health    JSON; GET /metrics    for Prometheus.
Wrong requests are answered with 4xx and {{"error": "one sentence"}}; 503 means too much to do: try again later.
"""
REFUSALS = {404: "There is nothing here: see / for what there is.", 405: "This address takes GET, /images also POST."}


def application(
    denoiser: Denoiser,
    name: str,
    *,
    steps: int = 1,
    batch: int = 16,
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    names: Iterable[str] = (),
    page: Models | None = None,
) -> Starlette:
    """Return the application that makes images of a denoiser, `steps` intervals each, up to `batch` at a time.

    It answers to `host`, where it listens, and to `names`. `page` has the models of the page, if there shall be one.
    """
    limits, measures = limits or Limits(), Measures()

    def make(seeds: Sequence[int], labels: Sequence[int] | None) -> np.ndarray:
        (images,) = generate(denoiser, seeds, steps=steps, label=labels, batch_size=len(seeds))
        return to_uint8(images)

    network = Network(make, batch, limits, measures)

    async def images(request: Request) -> Response:
        query = await read(SeedsQuery, request, limits)
        labels = query.labels(query.seeds, denoiser.num_classes)
        pixels = await network.images(query.seeds, None if labels is None else labels.tolist())
        return Response(await asyncio.to_thread(encode, pixels, query.format), media_type=MEDIA_TYPES[query.format])

    async def health(_: Request) -> Response:
        facts = {"model": name, **describe(denoiser), "steps": steps, "d2o": d2o.__version__}
        return JSONResponse({"status": "ok", **facts})

    async def usage(_: Request) -> Response:
        channels, height, width = denoiser.pixel_shape
        classes = f"{denoiser.num_classes} classes" if denoiser.num_classes else "without classes"
        sizes = {"width": width, "height": height, "channels": channels, "seeds": limits.max_seeds}
        return PlainTextResponse(USAGE.format(version=d2o.__version__, name=name, classes=classes, **sizes))

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(measures.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    @asynccontextmanager
    async def stop(_: Starlette) -> AsyncIterator[None]:
        yield
        network.thread.shutdown(wait=False, cancel_futures=True)

    return Starlette(
        routes=[
            *([Route("/", usage)] if page is None else Page(page, network).routes()),
            Route("/images", images, methods=["GET", "POST"]),
            Route("/health", health),
            Route("/metrics", metrics),
        ],
        lifespan=stop,
        middleware=[Middleware(CountAnswers, measures), Middleware(AccessControl, host, names)],
        exception_handlers={
            HTTPException: answer_refusal,
            Exception: lambda *_: JSONResponse({"error": FAILED}, 500),
        },
    )


async def answer_refusal(_: Request, problem: Any) -> Response:
    """Answer a request that is refused, by us or by the framework, in one sentence."""
    headers = {**(problem.headers or {}), **({"Retry-After": "1"} if problem.status_code == 503 else {})}
    sentence = REFUSALS.get(problem.status_code, problem.detail)
    return JSONResponse({"error": sentence}, problem.status_code, headers=headers)
