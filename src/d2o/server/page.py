"""What the page asks for: its files, the models, one-step images between seeds, a moving picture, a teacher's stages.

The page draws pixels that come inside JSON. Models are chosen by name and files from a table, so that no path of this
machine is ever followed.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import condition_for
from d2o.pages.play import play_files
from d2o.records import nearest

from .addresses import Address
from .generation import make_images, sample_stages
from .models import Models
from .network import Network
from .pictures import encode_gif, picture_record
from .query import ImagesQuery, ModelQuery, MovieQuery, Point, StagesQuery, read

TITLE = "One network call instead of 35"
LARGEST = 2**24
"""The most numbers in the images of one request: 341 RGB images of 128x128."""
MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
LINES = "application/x-ndjson"


class Page:
    """The page's answers at its `addresses`."""

    def __init__(self, models: Models, network: Network) -> None:
        self.models, self.network, self.limits = models, network, network.limits
        self.files = play_files("server")
        self.paths = ("/", *(f"/{name}" for name in self.files))
        network.thread.submit(self.prepare)

    def prepare(self) -> None:
        """Make an image of every model that nobody sees: the first one also takes the time to set up its kernels."""
        for denoiser in self.models.denoisers.values():
            make_images(denoiser, [Point(0, 0, 0.0)], condition_for(denoiser, [0]))

    def addresses(self) -> list[Address]:
        return [
            *(Address(path, self.file, "A file of the page.", [self.media_type(path)]) for path in self.paths),
            Address("/page/models", self.describe, "The models to choose from."),
            Address("/page/images", self.images, "Images between seeds.", methods=["POST"], query=ImagesQuery),
            Address("/page/stages", self.stages, "A sampler's stages.", [LINES], ["POST"], query=StagesQuery),
            Address("/page/movie", self.movie, "A moving picture.", ["image/gif"], query=MovieQuery),
        ]

    def media_type(self, path: str) -> str:
        return f"{MEDIA_TYPES[name_of(path).rpartition('.')[2]]}; charset=utf-8"

    async def file(self, request: Request) -> Response:
        path, headers = request.url.path, {"Cache-Control": "no-cache"}
        return Response(self.files[name_of(path)], media_type=self.media_type(path), headers=headers)

    async def describe(self, _: Request) -> Response:
        return JSONResponse({"title": TITLE, "models": self.models.describe()})

    async def images(self, request: Request) -> Response:
        query = await read(ImagesQuery, request, self.limits)
        async with self.network.attend(request, len(query.points)):
            pictures, seconds = await self.make(query, query.points)
        facts = {"milliseconds": 1000 * seconds, "unknown": query.unknown(self.models.denoisers[query.model])}
        return JSONResponse({"pictures": [*map(picture_record, pictures)], **facts})

    async def movie(self, request: Request) -> Response:
        query = await read(MovieQuery, request, self.limits)
        shares = [i / (query.frames - 1) for i in range(query.frames)]
        points = [Point(query.first, query.second, share, share) for share in shares]
        async with self.network.attend(request, len(points)):
            pictures, _ = await self.make(query, points)
            return Response(await asyncio.to_thread(encode_gif, pictures), media_type="image/gif")

    async def stages(self, request: Request) -> Response:
        """Answer with the stages of a teacher's sampler, each on a line of JSON as soon as it is reached."""
        query = await read(StagesQuery, request, self.limits)
        denoiser, condition = self.choose(query, [query.point])
        stages = sample_stages(denoiser, query.point, condition, query.steps)

        async def lines() -> AsyncIterator[str]:
            try:
                with self.network.hold(request, 2 * query.steps):
                    while (stage := await self.network.run(lambda: next(stages, None))) is not None:
                        yield json.dumps(stage, default=picture_record) + "\n"
            except HTTPException as refusal:
                yield json.dumps({"error": refusal.detail}) + "\n"

        return StreamingResponse(lines(), media_type=LINES)

    async def make(self, query: ModelQuery, points: Sequence[Point]) -> tuple[np.ndarray, float]:
        """Return the one-step images of points and the seconds they took; too many are refused."""
        denoiser, condition = self.choose(query, points)
        if len(points) > (most := LARGEST // math.prod(denoiser.pixel_shape)):
            raise HTTPException(400, f"These are too many images at once: request at most {most} of this model.")
        images, seconds = await self.network.run(lambda: make_images(denoiser, points, condition))
        self.network.measures.count_batch(len(points), seconds)
        return images, seconds

    def choose(self, query: ModelQuery, points: Sequence[Point]) -> tuple[Denoiser, Any]:
        """Return the model that a query names, and the condition of every point."""
        name, known = query.model, self.models.denoisers
        if name not in known:
            raise HTTPException(400, f"There is no model {name[:100]!r} here: {nearest(name[:100], known)}")
        return known[name], query.condition_at(points, known[name])


def name_of(path: str) -> str:
    """Return the name of the page's file at a path."""
    return path.strip("/") or "index.html"
