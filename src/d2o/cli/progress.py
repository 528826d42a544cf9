"""Progress for people: live bars on a terminal, a plain line every ten seconds in a log file."""

import logging
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from d2o.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress, Task

    from d2o.training.run import Moment

Item = TypeVar("Item")
LOG_SECONDS = 10
PATIENCE = 1.0
"""Seconds before anything is shown: what is over sooner needs no bar, and not the time to import one."""

display: "Progress | None" = None
"""What is shown now; passes within passes are its further rows."""


def quiet() -> bool:
    """Return whether this process should keep silent: only the first of many speaks."""
    return os.environ.get("RANK", "0") != "0"


def say(sentence: str) -> None:
    """Print a line of information, from one process only."""
    if not quiet():
        print(printable(sentence), file=sys.stderr, flush=True)


class LogHandler(logging.Handler):
    """Prints what the library logs for people: the plan of a run, and why it differs from what was asked for."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def print_log() -> None:
    log = logging.getLogger("d2o")
    log.setLevel(logging.INFO)
    log.handlers, log.propagate = [LogHandler()], False
    warnings.showwarning = lambda message, *_, **__: say(str(message))


def watch(moments: "Iterable[Moment]", duration: int, title: str) -> None:
    """Follow a run to its end, showing images, rate, time left, losses and the newest KID."""
    shown = show(moments, duration, title, lambda at, _: at.progress.images, lambda at, _: at.status(duration))
    last = deque((moment.status(duration) for moment in shown), maxlen=1)
    if last:
        say(f"{title}: {last[0]}")


def counted(items: Iterable[Item], total: int, title: str, unit: str = "images") -> Iterator[Item]:
    """Pass items on, showing how many there are already, how fast they come, and how long the rest will take."""

    def count(item: Item, done: int) -> int:
        return done + (len(item) if isinstance(item, Sized) and unit == "images" else 1)

    def describe(_: Item, task: "Task") -> str:
        speed, left = task.speed or 0.0, task.time_remaining or 0.0
        rate = f"{speed:,.0f}/s" if speed >= 1 or not speed else f"{1 / speed:,.1f} s each"
        return f"{task.completed:,.0f} of {total:,} {unit}, {rate}, {timedelta(seconds=round(left))} left"

    return show(items, total, title, count, describe)


def show(
    items: Iterable[Item],
    total: int,
    title: str,
    count: Callable[[Item, int], int],
    describe: "Callable[[Item, Task], str]",
) -> Iterator[Item]:
    """Pass items on, in a row of the display: `count` says how many are done, `describe` where that is."""
    global display
    began = printed = time.monotonic()
    done, task = 0, None
    try:
        for item in items:
            yield item
            done, now = count(item, done), time.monotonic()
            if quiet() or (task is None and now - began < PATIENCE):
                continue
            display = display or open_display()
            if task is None:
                task = display.add_task(title, total=total, status="")
            display.update(task, completed=done)
            status = describe(item, next(row for row in display.tasks if row.id == task))
            display.update(task, status=status)
            if display.disable and now - printed > LOG_SECONDS and done < total:
                say(f"{title}: {status}")
                printed = now
    finally:
        if display is not None and task is not None:
            display.remove_task(task)
            if not display.tasks:
                display.stop()
                display = None


def open_display() -> "Progress":
    """Start a display of bars on standard error; in a log file it only counts."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}"))
    bars = Progress(*columns, console=Console(stderr=True), get_time=time.monotonic, disable=not sys.stderr.isatty())
    bars.start()
    return bars
