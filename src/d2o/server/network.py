"""One thread that computes: images that are asked for at the same time share batches, other work waits its turn."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from .limits import Limits
from .measures import Measures

Make = Callable[[Sequence[int], Sequence[int] | None], np.ndarray]
"""seeds, their classes or None -> uint8 images [N,H,W,C]."""
Wanted = tuple[int, int | None, Future]
"""A seed, its class and the image that somebody waits for."""
WAITING = 64
"""Jobs other than batches that may wait."""
BUSY = 503, "Too much is waited for already: try again later.", {"Retry-After": "1"}
FAILED = "Making the images failed; the server's log says why."


class Network:
    """What all requests share: a bounded queue of single images, made up to `batch` at a time, and a thread.

    A batch is not waited for: what has gathered while the one before was computed is the next. HTTPException says
    that too much waits already, that an answer took too long, or that it failed.
    """

    def __init__(self, make: Make, limits: Limits, measures: Measures) -> None:
        self.make, self.limits, self.measures = make, limits, measures
        self.thread = ThreadPoolExecutor(1, "network")
        self.wanted: deque[Wanted] = deque()
        self.jobs = 0
        measures.waiting.set_function(lambda: len(self.wanted))

    async def images(self, seeds: Sequence[int], labels: Sequence[int] | None) -> np.ndarray:
        """Return uint8 images [N,H,W,C] in the order of the seeds."""
        if len(self.wanted) + len(seeds) > self.limits.max_queue:
            raise HTTPException(*BUSY)
        futures: list[Future] = [Future() for _ in seeds]
        self.wanted.extend(zip(seeds, labels or [None] * len(seeds), futures, strict=True))
        for _ in range(0, len(seeds), self.limits.batch):
            self.thread.submit(self.make_batch)
        return np.stack(await self.wait(asyncio.gather(*map(asyncio.wrap_future, futures))))

    def make_batch(self) -> None:
        """Make the images that have gathered, but those that nobody waits for any more."""
        batch: list[Wanted] = []
        while self.wanted and len(batch) < self.limits.batch:
            wanted = self.wanted.popleft()
            if wanted[-1].set_running_or_notify_cancel():
                batch.append(wanted)
        if not batch:
            return
        seeds, labels, futures = zip(*batch, strict=True)
        began = time.perf_counter()
        try:
            images = self.make(seeds, None if None in labels else labels)
        except Exception as error:  # of the network or its device: the requests fail, the server goes on
            for future in futures:
                future.set_exception(error)
            return
        self.measures.count_batch(len(batch), time.perf_counter() - began)
        for future, image in zip(futures, images, strict=True):
            future.set_result(image)

    async def run(self, function: Callable[[], Any]) -> Any:
        if self.jobs >= WAITING:
            raise HTTPException(*BUSY)
        self.jobs += 1
        try:
            return await self.wait(asyncio.get_running_loop().run_in_executor(self.thread, function))
        finally:
            self.jobs -= 1

    async def wait(self, answer: Awaitable[Any]) -> Any:
        try:
            return await asyncio.wait_for(answer, self.limits.timeout)
        except TimeoutError:
            late = f"The images were not ready within {self.limits.timeout:g} s: ask for fewer."
            raise HTTPException(504, late) from None
        except Exception as problem:
            logging.getLogger("d2o").error("Making images failed: %s: %s", type(problem).__name__, problem)
            raise HTTPException(500, FAILED) from problem
