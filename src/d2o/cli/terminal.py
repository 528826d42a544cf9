"""Progress for people: a live line on a terminal, a plain line every few seconds in a log file."""

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from d2o.training.run import Moment

from .arguments import quiet

LOG_SECONDS = 10

Batch = TypeVar("Batch", bound=Sized)


def watch(moments: Iterable[Moment], duration: int, title: str) -> Moment | None:
    """Follow a run to its end, showing images, rate, time left, losses and the newest KID; return the last moment."""
    if quiet():
        return _last(moments)
    return _live(moments, duration, title) if sys.stderr.isatty() else _plain(moments, duration, title)


def say(sentence: str) -> None:
    """Print a line of information, from one process only."""
    if not quiet():
        print(sentence, file=sys.stderr, flush=True)


def counted(batches: Iterable[Batch], total: int, title: str) -> Iterator[Batch]:
    """Pass batches of images on, telling every few seconds how many there are already."""
    done, began = 0, time.monotonic()
    shown = began
    for batch in batches:
        yield batch
        done += len(batch)
        now = time.monotonic()
        if now - shown > LOG_SECONDS and done < total:
            rate = done / (now - began)
            say(f"{title}: {done:,} of {total:,} images, {rate:,.0f}/s, {clock((total - done) / rate)} left")
            shown = now


def _last(moments: Iterable[Moment]) -> Moment | None:
    newest = deque(moments, maxlen=1)
    return newest[0] if newest else None


def _live(moments: Iterable[Moment], duration: int, title: str) -> Moment | None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}"))
    moment, shown = None, 0.0
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(title, total=duration, status="starting")
        for moment in moments:
            now = time.monotonic()
            if now - shown > 0.2 or moment.progress.images >= duration:
                bar.update(task, completed=moment.progress.images, status=status(moment, duration))
                shown = now
    return moment


def _plain(moments: Iterable[Moment], duration: int, title: str) -> Moment | None:
    moment, shown = None, time.monotonic()
    for moment in moments:
        now = time.monotonic()
        if now - shown > LOG_SECONDS or moment.progress.images >= duration:
            say(f"{title}: {status(moment, duration)}")
            shown = now
    return moment


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
