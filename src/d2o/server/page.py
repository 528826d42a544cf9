"""What the page asks for: its files, the models, one-step images between seeds, a moving picture, a teacher's stages.

The page draws pixels that come inside JSON. Models are chosen by name and files from a table, so that no path of this
machine is ever followed.
"""

import asyncio
import json
import logging
import math
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from torch import Tensor, tensor

from d2o.data.files import MAX_SEED
from d2o.diffusion.denoiser import Denoiser
from d2o.pages.play import play_files
from d2o.records import nearest

from .generation import Point, make_images, sample_stages
from .measures import Measures
from .models import Models
from .pictures import encode_gif, picture_record
from .question import Limits, check_keys, is_whole, read_json, read_labels
from .refusal import Refused

TITLE = "One network call instead of 35"
IMAGES, LARGEST = 256, 2**24
"""The most images of one request, and numbers in them: 341 RGB images of 128x128."""
STEPS, FRAMES = (2, 40), (2, 120)
FRAMES_PER_SECOND = 12
WAITING = 64
"""Requests that may wait for the network, of all pages together."""
MEDIA_TYPES = {"html": "text/html; charset=utf-8", "css": "text/css", "js": "text/javascript"}


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
        asked = await read_json(request, self.limits)
        check_keys(asked, ("model", "points", "class"))
        denoiser = self.model(asked.get("model"))
        points = asked.get("points")
        if not isinstance(points, list) or not points:
            raise Refused(400, 'points are a list such as [["3", "4", 0.5]]: seed, other seed, share of the way.')
        points = [read_point(point) for point in points[: IMAGES + 1]]
        pictures, seconds = await self.make(denoiser, points, asked.get("class"))
        records = [picture_record(picture) for picture in pictures]
        return JSONResponse({"pictures": records, "milliseconds": 1000 * seconds})

    async def movie(self, request: Request) -> Response:
        """Answer with the way from one seed to another and back as a GIF."""
        asked = dict(request.query_params)
        check_keys(asked, ("model", "first", "second", "class", "frames"))
        denoiser = self.model(asked.get("model"))
        frames = read_whole(asked.get("frames", 24), "frames", *FRAMES)
        ends = read_seed(asked.get("first")), read_seed(asked.get("second"))
        points = [Point(*ends, i / (frames - 1)) for i in range(frames)]
        pictures, _ = await self.make(denoiser, points, asked.get("class"))
        return Response(await asyncio.to_thread(encode_gif, pictures, FRAMES_PER_SECOND), media_type="image/gif")

    async def stages(self, request: Request) -> Response:
        """Answer with the stages of a teacher's sampler, each on a line of JSON as soon as it is reached."""
        asked = await read_json(request, self.limits)
        check_keys(asked, ("model", "point", "class", "steps"))
        denoiser = self.model(asked.get("model"))
        point = read_point(asked.get("point"))
        steps = read_whole(asked.get("steps", 18), "steps", *STEPS)
        found = sample_stages(denoiser, point, labels_of(denoiser, [point], asked.get("class")), steps)

        async def lines() -> AsyncIterator[str]:
            try:
                while (stage := await self.run(lambda: next(found, None))) is not None:
                    record = {"sigma": stage.sigma, "calls": stage.calls, "milliseconds": 1000 * stage.seconds}
                    record |= {name: picture_record(getattr(stage, name)) for name in ("x", "guess", "result")}
                    yield json.dumps(record) + "\n"
            except Refused as refusal:
                yield json.dumps({"error": str(refusal)}) + "\n"
            except Exception as problem:
                logging.getLogger("d2o").error("The teacher failed: %s: %s", type(problem).__name__, problem)
                yield json.dumps({"error": "Making the images failed; the server's log says why."}) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    def model(self, name: object) -> Denoiser:
        """Return a model that is offered."""
        if not isinstance(name, str) or name not in self.models.denoisers:
            raise Refused(
                400, f"There is no model {str(name)[:100]!r} here: {nearest(str(name)[:100], self.models.denoisers)}"
            )
        return self.models.denoisers[name]

    async def make(self, denoiser: Denoiser, points: list[Point], label: Any) -> tuple[np.ndarray, float]:
        """Return the one-step images of points and the seconds they took; too many are refused."""
        most = min(IMAGES, LARGEST // math.prod(denoiser.pixel_shape))
        if len(points) > most:
            raise Refused(400, f"These are too many images at once: ask for at most {most} of this model.")
        labels = labels_of(denoiser, points, label)
        images, seconds = await self.run(lambda: make_images(denoiser, points, labels))
        self.measures.made(len(points), seconds)
        return images, seconds

    async def run(self, function: Callable[[], Any]) -> Any:
        """Return what a function returns in the network's thread; refused when that is too busy."""
        if self.waiting >= WAITING:
            raise Refused(503, "Too much is asked for already: try again later.")
        self.waiting += 1
        try:
            answer = asyncio.get_running_loop().run_in_executor(self.thread, function)
            return await asyncio.wait_for(answer, self.limits.seconds)
        except TimeoutError:
            raise Refused(504, f"It was not ready within {self.limits.seconds:g} s: ask for less.") from None
        finally:
            self.waiting -= 1


def labels_of(denoiser: Denoiser, points: list[Point], asked: Any) -> Tensor | None:
    """Return the class [N] of every point: the one asked for, or that of its seed."""
    labels = read_labels(asked, tuple(point.seed for point in points), denoiser.num_classes)
    return None if labels is None else tensor(labels)


def read_point(value: Any) -> Point:
    """Return a point of noise space from [seed, other seed, share]."""
    if not isinstance(value, list) or len(value) != 3:
        raise Refused(400, 'A point is [seed, other seed, share of the way], such as ["3", "4", 0.5].')
    share = value[2]
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise Refused(400, "The share of the way between two seeds is a number from 0 to 1.")
    return Point(read_seed(value[0]), read_seed(value[1]), share)


def read_seed(value: Any) -> int:
    """Return a seed from a number or its digits (JavaScript's numbers are exact up to 2^53 only)."""
    return read_whole(value, "A seed", 0, MAX_SEED)


def read_whole(value: Any, name: str, least: int, most: int) -> int:
    """Return a whole number between two bounds, from a number or its digits."""
    found = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value) else value
    if not is_whole(found) or not least <= found <= most:
        raise Refused(400, f"{name} is a whole number from {least} to {most}.")
    return found
