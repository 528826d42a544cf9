"""Images that are asked for at the same time are made together: while one batch is computed, the next one gathers."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import numpy as np

Make = Callable[[Sequence[int], Sequence[int] | None], np.ndarray]
"""seeds, their classes or None -> uint8 images [N,H,W,C]."""


class Wanted(NamedTuple):
    """One image that somebody waits for."""

    seed: int
    label: int | None
    image: asyncio.Future


class Full(Exception):
    """More images wait than may."""


class Batches:
    """A queue of single images, and one thread that makes up to `size` of them at a time, of whichever requests.

    A batch is never waited for: what has gathered while the one before was computed is the next. `made` is called with
    the size of each batch and the seconds it took.
    """

    def __init__(self, make: Make, size: int, queue: int, made: Callable[[int, float], None]) -> None:
        self.make, self.size, self.queue, self.made = make, size, queue, made
        self.waiting: deque[Wanted] = deque()
        self.thread = ThreadPoolExecutor(1, "network")
        self.something = asyncio.Event()

    async def images(self, seeds: Sequence[int], labels: Sequence[int] | None) -> np.ndarray:
        """Return uint8 images [N,H,W,C] in the order of the seeds; raises Full, and what making them raises."""
        if len(self.waiting) + len(seeds) > self.queue:
            raise Full
        loop = asyncio.get_running_loop()
        mine = [
            Wanted(seed, None if labels is None else labels[i], loop.create_future()) for i, seed in enumerate(seeds)
        ]
        self.waiting.extend(mine)
        self.something.set()
        try:
            return np.stack(await asyncio.gather(*(wanted.image for wanted in mine)))
        finally:  # nobody waits any more for those of a request that timed out or failed
            for wanted in mine:
                wanted.image.cancel()

    def next(self) -> list[Wanted]:
        """Take the next batch from the queue, leaving out images that nobody waits for any more."""
        batch: list[Wanted] = []
        while self.waiting and len(batch) < self.size:
            wanted = self.waiting.popleft()
            if not wanted.image.done():
                batch.append(wanted)
        return batch

    async def work(self) -> None:
        """Make batches until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self.something.wait()
                if not (batch := self.next()):
                    self.something.clear()
                    continue
                seeds = [wanted.seed for wanted in batch]
                labels = [wanted.label for wanted in batch if wanted.label is not None] or None
                began = loop.time()
                try:
                    images = await loop.run_in_executor(self.thread, self.make, seeds, labels)
                except Exception as error:  # of the network or its device: the requests fail, the server goes on
                    for wanted in batch:
                        if not wanted.image.done():
                            wanted.image.set_exception(error)
                    continue
                self.made(len(batch), loop.time() - began)
                for wanted, image in zip(batch, images, strict=True):
                    with suppress(asyncio.InvalidStateError):
                        wanted.image.set_result(image)
        finally:
            for wanted in self.waiting:
                wanted.image.cancel()
            self.thread.shutdown(wait=False, cancel_futures=True)
