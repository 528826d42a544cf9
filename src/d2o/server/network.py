"""One thread that computes: images that are asked for at the same time share batches, other work waits its turn."""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from torch import Tensor

from .limits import Limits
from .measures import REQUEST_ID, Measures

Make = Callable[[Sequence[int], Sequence[Tensor] | None], np.ndarray]
"""seeds, the rows of their condition or None -> uint8 images [N,H,W,C]."""
LATER = {"Retry-After": "1"}
BUSY = 503, "The queue is full: try again later.", LATER
GREEDY = 429, "Too many of your images are in the queue: try again later.", LATER
LEFT = 499, "The client left."
FAILED = "Making the images failed; the server's log says why."


class Network:
    """What all requests share: a bounded queue of single images, made up to `batch` at a time, and a thread.

    Images have a place each from the request to its answer: so many in all, and so many of one client.

    A batch is not waited for: what has gathered while the one before was computed is the next. HTTPException says
    that too much waits already, that an answer took too long, or that it failed.
    """

    def __init__(self, make: Make, limits: Limits, measures: Measures) -> None:
        self.make, self.limits, self.measures = make, limits, measures
        self.thread = ThreadPoolExecutor(1, "network")
        self.wanted: OrderedDict[Future, tuple[int, Tensor | None]] = OrderedDict()  # images of a seed and its class
        self.places: Counter[str] = Counter()
        measures.waiting.set_function(self.places.total)

    @contextmanager
    def hold(self, request: Request, places: int) -> Iterator[None]:
        """Take so many places for the client of a request; HTTPException where there are too few left."""
        client = request.client.host if request.client else ""
        if self.places[client] + places > self.limits.max_client:
            raise HTTPException(*GREEDY)
        if self.places.total() + places > self.limits.max_queue:
            raise HTTPException(*BUSY)
        self.places[client] += places
        try:
            yield
        finally:
            self.places[client] -= places
            self.places += Counter()  # forgets clients with none

    @asynccontextmanager
    async def attend(self, request: Request, places: int) -> AsyncIterator[None]:
        """Take places, and give up what is done within when the client leaves."""
        task = asyncio.current_task()
        assert task

        async def notice_leaving() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            task.cancel()

        with self.hold(request, places):
            watch = asyncio.create_task(notice_leaving())
            try:
                yield
            except asyncio.CancelledError:
                if not watch.done():
                    raise
                task.uncancel()
                raise HTTPException(*LEFT) from None
            finally:
                watch.cancel()

    async def images(self, seeds: Sequence[int], condition: Tensor | None) -> np.ndarray:
        """Return uint8 images [N,H,W,C] in the order of the seeds."""
        rows = [None] * len(seeds) if condition is None else condition
        futures: list[Future] = [Future() for _ in seeds]
        self.wanted.update(zip(futures, zip(seeds, rows, strict=True), strict=True))
        for _ in range(0, len(seeds), self.limits.batch):
            self.thread.submit(self.make_batch)

        async def collect() -> list[np.ndarray]:
            return [await asyncio.wrap_future(future) for future in futures]

        try:
            return np.stack(await self.wait(collect()))
        finally:
            for future in futures:
                self.wanted.pop(future, None)

    def make_batch(self) -> None:
        """Make the images that have gathered, but those that nobody waits for any more."""
        batch: dict[Future, tuple[int, Tensor | None]] = {}
        with suppress(KeyError):  # none is left
            while len(batch) < self.limits.batch:
                future, image = self.wanted.popitem(last=False)
                if future.set_running_or_notify_cancel():
                    batch[future] = image
        if not batch:
            return
        seeds, rows = zip(*batch.values(), strict=True)
        began = time.perf_counter()
        try:
            images = self.make(seeds, None if rows[0] is None else rows)
        except Exception as error:  # of the network or its device: the requests fail, the server goes on
            for future in batch:
                future.set_exception(error)
            return
        self.measures.count_batch(len(batch), time.perf_counter() - began)
        for future, image in zip(batch, images, strict=True):
            future.set_result(image)

    async def run(self, function: Callable[[], Any]) -> Any:
        return await self.wait(asyncio.get_running_loop().run_in_executor(self.thread, function))

    async def wait(self, answer: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self.limits.timeout):
                return await answer
        except TimeoutError:
            late = f"The images were not ready within {self.limits.timeout:g} s: request fewer."
            raise HTTPException(504, late) from None
        except Exception as problem:
            reason = f"{type(problem).__name__}: {problem}"
            logging.getLogger("d2o").error("Making images failed (request %s): %s", REQUEST_ID.get(), reason)
            raise HTTPException(500, FAILED) from problem
