"""What the page asks for: its files, the models, one-step images between seeds, a moving picture, a teacher's stages.

The page draws pixels that come inside JSON. Models are chosen by name and files from a table, so that no path of this
machine is ever followed.
"""

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from torch import Tensor, tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.pages.play import play_files
from d2o.records import RECORD, Whole, nearest

from .generation import Point, Seed, make_images, sample_stages
from .measures import Measures
from .models import Models
from .pictures import encode_gif, picture_record
from .query import Limits, read_json, read_labels

TITLE = "One network call instead of 35"
IMAGES, LARGEST = 256, 2**24
"""The most images of one request, and numbers in them: 341 RGB images of 128x128."""
FRAMES_PER_SECOND = 12
WAITING = 64
"""Requests that may wait for the network, of all pages together."""
MEDIA_TYPES = {"html": "text/html; charset=utf-8", "css": "text/css", "js": "text/javascript"}


class ModelQuery(BaseModel):
    """What every query about a model says; `label` is called class in JSON, and left out it is that of each seed."""

    model_config = RECORD
    model: str
    label: Any = Field(None, alias="class")


class ImagesQuery(ModelQuery):
    """One-step images of points in noise space."""

    points: Annotated[list[Point], Field(min_length=1, max_length=IMAGES)]


class MovieQuery(ModelQuery):
    """The way from one seed to another, in so many frames."""

    first: Seed
    second: Seed
    frames: Annotated[Whole, Field(ge=2, le=120)] = 24


class StagesQuery(ModelQuery):
    """A teacher's sampler from a point in noise space."""

    point: Point
    steps: Annotated[Whole, Field(ge=2, le=40)] = 18


Kind = TypeVar("Kind", bound=ModelQuery)


class Page:
    """The page's answers; what is asked of a network is done in the one thread that all requests share."""

    def __init__(self, models: Models, thread: ThreadPoolExecutor, measures: Measures, limits: Limits) -> None:
        self.models, self.thread, self.measures, self.limits = models, thread, measures, limits
        self.files = play_files("server")
        self.waiting = 0
        thread.submit(self.prepare)

    def prepare(self) -> None:
        """Make an image of every model that nobody sees: the first one also takes the time to set up its kernels."""
        for denoiser in self.models.denoisers.values():
            make_images(denoiser, [Point(0, 0, 0.0)], labels_of(denoiser, [Point(0, 0, 0.0)], None))

    def routes(self) -> list[Route]:
        """Return the page's addresses."""
        files = [Route(f"/{name}", self.file) for name in self.files]
        return [
            *(Route("/", self.file), *files),
            Route("/page/models", self.describe),
            Route("/page/images", self.images, methods=["POST"]),
            Route("/page/stages", self.stages, methods=["POST"]),
            Route("/page/movie", self.movie),
        ]

    async def file(self, request: Request) -> Response:
        """Answer with one of the page's own files."""
        name = request.url.path.strip("/") or "index.html"
        headers = {"Cache-Control": "no-cache"}
        return Response(self.files[name], media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers=headers)

    async def describe(self, _: Request) -> Response:
        """Answer with the models that can be chosen, the first one to be shown first."""
        return JSONResponse({"title": TITLE, "models": self.models.describe()})

    async def images(self, request: Request) -> Response:
        """Answer with the one-step images of points."""
        query = read(ImagesQuery, await read_json(request, self.limits))
        pictures, seconds = await self.make(query, query.points)
        records = [picture_record(picture) for picture in pictures]
        return JSONResponse({"pictures": records, "milliseconds": 1000 * seconds})

    async def movie(self, request: Request) -> Response:
        """Answer with the way from one seed to another and back as a GIF."""
        query = read(MovieQuery, dict(request.query_params))
        shares = [i / (query.frames - 1) for i in range(query.frames)]
        points = [Point(query.first, query.second, share) for share in shares]
        pictures, _ = await self.make(query, points)
        return Response(await asyncio.to_thread(encode_gif, pictures, FRAMES_PER_SECOND), media_type="image/gif")

    async def stages(self, request: Request) -> Response:
        """Answer with the stages of a teacher's sampler, each on a line of JSON as soon as it is reached."""
        query = read(StagesQuery, await read_json(request, self.limits))
        denoiser = self.model(query.model)
        label = labels_of(denoiser, [query.point], query.label)
        found = sample_stages(denoiser, query.point, label, query.steps)

        async def lines() -> AsyncIterator[str]:
            try:
                while (stage := await self.run(lambda: next(found, None))) is not None:
                    record = {"sigma": stage.sigma, "calls": stage.calls, "milliseconds": 1000 * stage.seconds}
                    record |= {name: picture_record(getattr(stage, name)) for name in ("x", "guess", "result")}
                    yield json.dumps(record) + "\n"
            except HTTPException as refusal:
                yield json.dumps({"error": refusal.detail}) + "\n"
            except Exception as problem:
                logging.getLogger("d2o").error("The teacher failed: %s: %s", type(problem).__name__, problem)
                yield json.dumps({"error": "Making the images failed; the server's log says why."}) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    def model(self, name: str) -> Denoiser:
        """Return a model that is offered."""
        known = self.models.denoisers
        if name not in known:
            raise HTTPException(400, f"There is no model {name[:100]!r} here: {nearest(name[:100], known)}")
        return known[name]

    async def make(self, query: ModelQuery, points: list[Point]) -> tuple[np.ndarray, float]:
        """Return the one-step images of points and the seconds they took; too many are refused."""
        denoiser = self.model(query.model)
        if len(points) * math.prod(denoiser.pixel_shape) > LARGEST:
            most = LARGEST // math.prod(denoiser.pixel_shape)
            raise HTTPException(400, f"These are too many images at once: ask for at most {most} of this model.")
        labels = labels_of(denoiser, points, query.label)
        images, seconds = await self.run(lambda: make_images(denoiser, points, labels))
        self.measures.made(len(points), seconds)
        return images, seconds

    async def run(self, function: Callable[[], Any]) -> Any:
        """Return what a function returns in the network's thread; refused when that is too busy."""
        if self.waiting >= WAITING:
            raise HTTPException(503, "Too much is asked for already: try again later.")
        self.waiting += 1
        try:
            answer = asyncio.get_running_loop().run_in_executor(self.thread, function)
            return await asyncio.wait_for(answer, self.limits.seconds)
        except TimeoutError:
            raise HTTPException(504, f"It was not ready within {self.limits.seconds:g} s: ask for less.") from None
        finally:
            self.waiting -= 1


def labels_of(denoiser: Denoiser, points: list[Point], asked: Any) -> Tensor | None:
    """Return the class [N] of every point: the one asked for, or that of its seed."""
    labels = read_labels(asked, tuple(point.seed for point in points), denoiser.num_classes)
    return None if labels is None else tensor(labels)


def read(kind: type[Kind], asked: dict[str, Any]) -> Kind:
    """Return what was asked as a query; HTTPException (400) names the first key that is wrong."""
    try:
        return kind.model_validate(asked)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))[:100]
        raise HTTPException(400, f"{place}: {first['msg'][:200]}.") from None
