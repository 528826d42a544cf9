"""The server as a Starlette application: its table of addresses, and with models to choose from those of the page."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp
from torch import Tensor

import d2o
from d2o.data.files import to_uint8
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate
from d2o.pages.play import describe
from d2o.records import shorten

from .access import AccessControl
from .addresses import Address, describe_addresses
from .limits import Limits
from .measures import Measures, record_answers
from .models import Models
from .network import FAILED, Network
from .page import Page
from .pictures import MEDIA_TYPES, encode
from .query import SeedsQuery, read

USAGE = resources.files("d2o.server").joinpath("usage.txt").read_text("utf-8")
TEXT, METRICS = "text/plain; charset=utf-8", "text/plain; version=0.0.4; charset=utf-8"
REFUSALS = {404: "There is nothing here: see / for all addresses.", 405: "This address takes GET, /images also POST."}


def application(
    denoiser: Denoiser,
    name: str,
    *,
    steps: int = 1,
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    names: Iterable[str] = (),
    token: str | None = None,
    access_log: bool = False,
    page: Models | None = None,
) -> ASGIApp:
    """Return the application that makes images of a denoiser, `steps` intervals each.

    It answers to `host`, where it listens, and to `names`, and where there is a `token` to those who have it; anybody
    may know its health and the page's files. `page` has the models of the page, if there shall be one.
    """
    limits, measures = limits or Limits(), Measures()

    def make(seeds: Sequence[int], rows: Sequence[Tensor] | None) -> np.ndarray:
        condition = None if rows is None else torch.stack(list(rows))
        (images,) = generate(denoiser, seeds, steps=steps, condition=condition, batch_size=len(seeds))
        return to_uint8(images)

    network = Network(make, limits, measures)

    async def images(request: Request) -> Response:
        query = await read(SeedsQuery, request, limits)
        condition = query.condition(query.seeds, denoiser)
        async with network.attend(request, len(query.seeds)):
            pixels = await network.images(query.seeds, condition)
            content = await asyncio.to_thread(encode, pixels, query.format)
        unknown = quote(" ".join(query.unknown(denoiser)))
        headers = {"X-Unknown-Words": unknown} if unknown else None
        return Response(content, media_type=MEDIA_TYPES[query.format], headers=headers)

    async def health(_: Request) -> Response:
        facts = {"model": name, **describe(denoiser), "steps": steps, "d2o": d2o.__version__}
        return JSONResponse({"status": "ok", **facts})

    def say_usage() -> str:
        classes = f"{denoiser.num_classes} classes" if denoiser.num_classes else "without classes"
        classes += f": {shorten(denoiser.class_names)}" if denoiser.class_names else ""
        facts = {"shape": denoiser.pixel_shape, "seeds": limits.max_seeds, "classes": classes}
        return USAGE.format(version=d2o.__version__, name=name, **facts)

    async def usage(_: Request) -> Response:
        return Response(say_usage(), media_type=TEXT)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(measures.registry), media_type=METRICS)

    @asynccontextmanager
    async def stop(_: Starlette) -> AsyncIterator[None]:
        yield
        network.thread.shutdown(wait=False, cancel_futures=True)

    async def openapi(_: Request) -> Response:
        return JSONResponse(describe_addresses(addresses, "d2o", say_usage(), free if token else None))

    shown = None if page is None else Page(page, network)
    addresses = [
        *(shown.addresses() if shown else [Address("/", usage, "Documentation of all requests.", [TEXT])]),
        Address("/images", images, "Images of seeds.", [*MEDIA_TYPES.values()], ["GET", "POST"], SeedsQuery),
        Address("/health", health, "The model, and whether it is served."),
        Address("/metrics", metrics, "Counts and times for Prometheus.", [METRICS]),
        Address("/openapi.json", openapi, "This description."),
    ]
    free = {"/health", *(shown.paths if shown else ())}
    starlette = Starlette(
        routes=[address.route() for address in addresses],
        lifespan=stop,
        exception_handlers={HTTPException: answer_refusal, 500: lambda *_: JSONResponse({"error": FAILED}, 500)},
    )
    return record_answers(AccessControl(starlette, host, names, token, free), measures, access_log)


async def answer_refusal(_: Request, problem: Any) -> Response:
    sentence = REFUSALS.get(problem.status_code, problem.detail)
    return JSONResponse({"error": sentence}, problem.status_code, headers=problem.headers)
