"""The server as a Starlette application: /images, /health and /metrics, and with models to choose from the page."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import d2o
from d2o.data.files import to_uint8
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate

from .access import AccessControl
from .batching import Batches, Full
from .measures import MEDIA_TYPE, Measures
from .models import Models
from .page import Page
from .pictures import FORMATS
from .query import KEYS, Limits, read_json, read_query

USAGE = """d2o {version} serves {name}: images of {width}x{height} pixels, {classes}.

GET  /images?seeds=0-7&class=3&format=png
POST /images   {{"seeds": [0, 1, 7], "class": [3, 3, 5], "format": "npy"}}

seeds   a number, "0-7" or "1,5,9", in JSON also a list; at most {seeds}. An image depends on its seed and class only.
class   a number, in JSON also a list of one a seed; left out: seed modulo the number of classes.
format  png or webp: one image, or a grid of several, row by row; npy: uint8 [N, {height}, {width}, {channels}].

GET /health    JSON; GET /metrics    for Prometheus.
Wrong requests are answered with 4xx and {{"error": "one sentence"}}; 503 means too much to do: try again later.
"""


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
    limits = limits or Limits()
    channels, height, width = denoiser.pixel_shape
    facts = {
        "model": name,
        "image_shape": [channels, height, width],
        "num_classes": denoiser.num_classes,
        "parameters": sum(parameter.numel() for parameter in denoiser.parameters()),
        "steps": steps,
        "d2o": d2o.__version__,
    }

    def make(seeds: Any, labels: Any) -> Any:
        (images,) = generate(denoiser, seeds, steps=steps, label=labels, batch_size=len(seeds))
        return to_uint8(images)

    measures = Measures(lambda: len(batches.waiting))
    batches = Batches(make, batch, limits.queue, measures.made)

    async def images(request: Request) -> Response:
        asked = dict(request.query_params) if request.method != "POST" else await read_json(request, limits)
        if request.method != "POST" and len(asked) < len(request.query_params.multi_items()):
            raise HTTPException(400, f"Name each of {', '.join(KEYS)} once.")
        query = read_query(asked, denoiser.num_classes, limits)
        try:
            pixels = await asyncio.wait_for(batches.images(query.seeds, query.labels), limits.seconds)
        except Full:
            raise HTTPException(503, "Too many images are waited for already: try again later.") from None
        except TimeoutError:
            raise HTTPException(504, f"The images were not ready within {limits.seconds:g} s: ask for fewer.") from None
        form = FORMATS[query.format]
        content = await asyncio.to_thread(form.encode, pixels)
        return Response(content, media_type=form.media_type)

    async def health(_: Request) -> Response:
        alive = not working[0].done()
        return JSONResponse({"status": "ok" if alive else "failed", **facts}, 200 if alive else 500)

    async def usage(_: Request) -> Response:
        classes = f"{denoiser.num_classes} classes" if denoiser.num_classes else "without classes"
        sizes = {"width": width, "height": height, "channels": channels, "seeds": limits.seeds}
        return PlainTextResponse(USAGE.format(version=d2o.__version__, name=name, classes=classes, **sizes))

    working: list[asyncio.Task] = []

    @asynccontextmanager
    async def work(_: Starlette) -> AsyncIterator[None]:
        working.append(asyncio.create_task(batches.work()))
        yield
        working[0].cancel()
        with suppress(asyncio.CancelledError):
            await working[0]

    shown = [Route("/", usage)] if page is None else Page(page, batches.thread, measures, limits).routes()
    counted = [*shown, Route("/images", images, methods=["GET", "POST"])]
    routes = [
        *(Route(route.path, count(route.endpoint, measures), methods=route.methods) for route in counted),
        Route("/health", health),
        Route("/metrics", lambda _: Response(measures.text(), media_type=MEDIA_TYPE)),
    ]
    access = Middleware(AccessControl, host=host, names=names, refused=measures.requests.labels(403).inc)
    return Starlette(
        routes=routes,
        lifespan=work,
        middleware=[access],
        exception_handlers={HTTPException: answer_refusal, Exception: answer_failure},
    )


def count(handler: Callable[[Request], Awaitable[Response]], measures: Measures) -> Any:
    """Return a handler whose answers and times are counted."""

    async def answer(request: Request) -> Response:
        status = 500
        try:
            with measures.request.time():
                response = await handler(request)
            status = response.status_code
            return response
        except HTTPException as refusal:
            status = refusal.status_code
            raise
        except ClientDisconnect:
            status = 400
            raise HTTPException(status, "The request broke off.") from None
        finally:
            measures.requests.labels(status).inc()

    return answer


async def answer_refusal(_: Request, problem: Exception) -> Response:
    """Answer a request that is refused, by us or by the framework, in one sentence."""
    assert isinstance(problem, HTTPException)
    known = {404: "There is nothing here: see / for what there is.", 405: "This address takes GET, /images also POST."}
    headers = {**(problem.headers or {}), **({"Retry-After": "1"} if problem.status_code == 503 else {})}
    sentence = known.get(problem.status_code, problem.detail)
    return JSONResponse({"error": sentence}, problem.status_code, headers=headers)


async def answer_failure(_: Request, problem: Exception) -> Response:
    """Answer a failure of the network in one sentence; the rest is for the log."""
    logging.getLogger("d2o").error("Making images failed: %s: %s", type(problem).__name__, problem)
    return JSONResponse({"error": "Making the images failed; the server's log says why."}, 500)
