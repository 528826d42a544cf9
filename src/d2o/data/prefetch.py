"""Work ahead in the background: what comes next is made while its forerunner is used, in the same order."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST, ROOM = 4, 1 << 28
"""Threads at most (decoders of images release Python's lock, the rest does not), and bytes of what they have made."""


def prefetch(work: Callable[[T], R], items: Iterable[T], size: int) -> Generator[R, None, None]:
    """Yield `work(item)` of each item in order; what comes next is made before, one result or several of `size` bytes.

    An error comes in its turn.
    """
    ahead = max(1, min(ROOM // size, MOST, os.cpu_count() or 1))
    pool, waiting = ThreadPoolExecutor(ahead, "prefetch"), deque[Future[R]]()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
