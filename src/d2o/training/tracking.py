"""A run's log shown elsewhere: every new line of metrics.jsonl goes to TensorBoard, trackio or Weights & Biases too.

The file stays the truth. `tracked.json` in the run's directory says up to which image its lines were sent, so that a
run which continues sends each line once.
"""

import contextlib
import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from d2o.files import atomic

from .run import Moment
from .run_directory import flatten

PROJECT = "d2o"


class Channel(NamedTuple):
    """Where a line goes: numbers by name, and the images seen."""

    log: Callable[[dict[str, float], int], Any]
    finish: Callable[[], Any]


def tensorboard(directory: Path, settings: dict[str, Any]) -> Channel:
    """Write event files into the run's directory: `tensorboard --logdir` shows them."""
    from torch.utils.tensorboard.writer import SummaryWriter

    writer = SummaryWriter(str(directory / "tensorboard"))
    writer.add_text("recipe", "\n".join(f"    {name}: {value}" for name, value in settings.items()))

    def log(numbers: dict[str, float], images: int) -> None:
        for name, number in numbers.items():
            writer.add_scalar(name, number, images)
        writer.flush()

    return Channel(log, writer.close)


def trackio(directory: Path, settings: dict[str, Any]) -> Channel:
    """Write into trackio's own place on this machine: `trackio show` shows it."""
    import trackio as service  # pyright: ignore[reportMissingImports]

    run: Any = service.init(project=PROJECT, name=directory.resolve().name, config=settings, resume="allow")
    return Channel(lambda numbers, images: run.log(numbers, step=images), service.finish)


def wandb(directory: Path, settings: dict[str, Any]) -> Channel:
    """Send to Weights & Biases as its own settings say (WANDB_MODE=offline keeps all here)."""
    import wandb as service  # pyright: ignore[reportMissingImports]

    place = directory.resolve()
    run: Any = service.init(
        project=PROJECT,
        name=place.name,
        id=hashlib.sha256(str(place).encode()).hexdigest()[:16],
        dir=str(place),
        config=settings,
        resume="allow",
    )
    return Channel(lambda numbers, images: run.log(numbers, step=images), run.finish)


SERVICES: dict[str, Callable[[Path, dict[str, Any]], Channel]] = {
    "tensorboard": tensorboard,
    "trackio": trackio,
    "wandb": wandb,
}


def check_service(name: str) -> None:
    """Raise a ValueError when there is no such service or its package is missing."""
    if name not in SERVICES:
        raise ValueError(f"Runs cannot be tracked by {name!r}: there are {', '.join(SERVICES)}.")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"Tracking by {name} needs its package: pip install -e '.[{name}]' in d2o's folder.")


def tracked(moments: Iterable[Moment], directory: Path, name: str) -> Iterator[Moment]:
    """Pass the moments of a run on, and send what its log gains meanwhile to a service."""
    check_service(name)
    channel = None
    try:
        for moment in moments:
            if channel is None:  # now the directory is this run's, and its log holds nothing newer than its checkpoint
                with words_aside():
                    channel = SERVICES[name](directory, settings_of(directory))
            send(channel, directory, name)
            yield moment
    finally:
        if channel is not None:
            with words_aside():
                channel.finish()


def words_aside() -> AbstractContextManager[object]:
    """Send what a service has to say to standard error: standard output is for the outcome, which may be JSON."""
    return contextlib.redirect_stdout(sys.stderr)


def send(channel: Channel, directory: Path, name: str) -> None:
    """Send the lines of the log that were not sent yet."""
    log, mark = directory / "metrics.jsonl", directory / "tracked.json"
    if not log.exists():
        return
    sent = json.loads(mark.read_text()) if mark.exists() else {}
    known = sent.get(name, {"images": 0, "bytes": 0})
    if log.stat().st_size == known["bytes"]:
        return
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    new = [line for line in lines if line["images"] > known["images"]]
    for line in new:
        channel.log(numbers_of(line), line["images"])
    sent[name] = {"images": max([known["images"], *(line["images"] for line in new)]), "bytes": log.stat().st_size}
    with atomic(mark) as temporary:
        temporary.write_text(json.dumps(sent) + "\n")


def numbers_of(line: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of the log by path: loss/student, evaluation/kid."""
    leaves = {name.replace(".", "/"): value for name, value in flatten(line).items() if name != "images"}
    return {
        name: float(value) for name, value in leaves.items() if isinstance(value, int | float) and value is not True
    }


def settings_of(directory: Path) -> dict[str, Any]:
    """Return what the run was asked for by dotted path, as plain text and numbers."""
    leaves = flatten(json.loads((directory / "recipe.json").read_text()))
    return {name: value if isinstance(value, int | float | str) else str(value) for name, value in leaves.items()}
