"""Progress for people: a live line on a terminal, a plain line every few seconds in a log file."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING

from d2o.metrics.counting import Item
from d2o.training.run import Moment

from .options import quiet

if TYPE_CHECKING:
    from rich.progress import Progress

LOG_SECONDS = 10
LIVE_SECONDS = 0.2
PATIENCE = 1.0
"""Seconds after which a pass over images is worth a line on a terminal."""
RECENT = 20
"""So many of the last items tell the rate: what was remembered from an earlier run took no time."""

Tell = Callable[[int, Callable[[], str]], None]
"""Shows how much is done, with words that are made only when they are shown."""


def watch(moments: Iterable[Moment], duration: int, title: str) -> Moment | None:
    """Follow a run to its end, showing images, rate, time left, losses and the newest KID; return the last moment."""
    moment = None
    with line(title, duration, stays=True) as tell:
        for moment in moments:
            tell(moment.progress.images, lambda now=moment: status(now, duration))
    return moment


def say(sentence: str) -> None:
    """Print a line of information, from one process only."""
    if not quiet():
        print(sentence, file=sys.stderr, flush=True)


def counted(items: Iterable[Item], total: int, title: str, unit: str = "images") -> Iterator[Item]:
    """Pass items on, telling how many there are already, how fast they come, and how long the rest will take."""
    times = deque([(time.monotonic(), 0)], RECENT)

    def words() -> str:
        return f"{times[-1][1]:,} of {total:,} {unit}, {pace(times, total)}"

    with line(title, total) as tell:
        for item in items:
            yield item
            done = times[-1][1] + (len(item) if isinstance(item, Sized) and unit == "images" else 1)
            times.append((time.monotonic(), done))
            tell(done, words)


def pace(times: deque[tuple[float, int]], total: int) -> str:
    """Return rate and time left from the last (time, how many were done)."""
    (since, before), (now, done) = times[0], times[-1]
    rate = max(done - before, 1e-9) / max(now - since, 1e-9)
    each = f"{rate:,.0f}/s" if rate >= 1 else f"{1 / rate:,.1f} s each"
    return f"{each}, {clock((total - done) / rate)} left"


@contextmanager
def line(title: str, total: int, *, stays: bool = False) -> Iterator[Tell]:
    """Give one thing that takes long its line of progress; one that `stays` shows its end, too, and is left there."""
    if quiet():
        yield untold
    elif sys.stderr.isatty():
        with live(title, total, stays=stays) as tell:
            yield tell
    else:
        yield plain(title, total, stays=stays)


def untold(done: int, words: Callable[[], str]) -> None:
    """Show nothing."""
    del done, words


def plain(title: str, total: int, *, stays: bool) -> Tell:
    """Return what prints a line every few seconds."""
    shown = time.monotonic()

    def tell(done: int, words: Callable[[], str]) -> None:
        nonlocal shown
        now = time.monotonic()
        if (now - shown > LOG_SECONDS and done < total) or (stays and done >= total):
            say(f"{title}: {words()}")
            shown = now

    return tell


bars: "list[Progress]" = []
"""The one live display, while anything is shown in it: lines of what goes on inside something are its further rows."""


@contextmanager
def live(title: str, total: int, *, stays: bool) -> Iterator[Tell]:
    """Show a bar; the outermost opens the display and closes it."""
    began = shown = time.monotonic()
    outermost, task = not bars, None

    def tell(done: int, words: Callable[[], str]) -> None:
        nonlocal shown, task
        now = time.monotonic()
        if task is None and not stays and now - began < PATIENCE:
            return
        if task is None or now - shown > LIVE_SECONDS or done >= total:
            task = bars[0].add_task(title, total=total, status="") if task is None else task
            bars[0].update(task, completed=done, status=words())
            shown = now

    if outermost:
        bars.append(display())
        bars[0].start()
    if stays:
        task = bars[0].add_task(title, total=total, status="starting")
    try:
        yield tell
    finally:
        if task is not None and not (stays and outermost):
            bars[0].remove_task(task)
        if outermost:
            bars.pop().stop()


def display() -> "Progress":
    """Return the display of bars, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}"))
    return Progress(*columns, console=Console(stderr=True))


def status(moment: Moment, duration: int) -> str:
    """Return one line: where the run stands."""
    progress = moment.progress
    left = max(duration - progress.images, 0) / max(moment.images_per_second, 1e-9)
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in progress.losses.items() if name != "r1")
    parts = [
        f"{min(progress.images, duration):,} of {duration:,} images",
        f"{moment.images_per_second:,.0f}/s",
        f"{clock(left)} left",
        f"loss {losses}",
    ]
    if moment.evaluation is not None:
        parts.append(f"KID {moment.evaluation['kid']:.3f}")
    if progress.skipped:
        parts.append(f"{progress.skipped} steps left out (gradients not finite)")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Return a duration as people write it: 0:42, 12:05, 3:20:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
