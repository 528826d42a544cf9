"""A run's log sent elsewhere, too, through accelerate's trackers: TensorBoard, trackio or Weights & Biases.

metrics.jsonl stays what counts. `tracked.json` says up to which image its lines were sent to each service, so that a
run that continues sends each line once.
"""

import hashlib
import importlib.util
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from accelerate import tracking

from d2o.files import atomic, parse_json, read_bytes

from .run import Moment
from .run_directory import flatten, read_log

log = logging.getLogger("d2o")
LOST = "Tracking with %s stops (%s); the run continues, and metrics.jsonl has the whole log."
MOST_MARK = 1 << 20  # bytes of a tracked.json

SERVICES: dict[str, Callable[[Path], tracking.GeneralTracker]] = {
    "tensorboard": lambda run: tracking.TensorBoardTracker("tensorboard", run),
    "trackio": lambda run: tracking.TrackioTracker("d2o", name=name_run(run), resume="allow"),
    "wandb": lambda run: tracking.WandBTracker(
        "d2o", name=name_run(run), id=hashlib.sha256(str(run).encode()).hexdigest()[:16], dir=str(run), resume="allow"
    ),
}


def name_run(run: Path) -> str:
    """Return what a service calls a run; a stage has its run's name, too."""
    return f"{run.parent.name}-{run.name}" if run.name.startswith("stage-") else run.name


def check_service(name: str) -> None:
    if name not in SERVICES:
        raise ValueError(f"Runs cannot be tracked with {name!r}: there are {', '.join(SERVICES)}.")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"Tracking with {name} needs its package: pip install -e '.[{name}]' in d2o's folder.")


def track(moments: Iterable[Moment], directory: Path, name: str) -> Iterator[Moment]:
    """Pass the moments of a run on, and send the lines that its log gains to a service, as long as it takes them."""
    tracker: Any = None
    working = True
    with ExitStack() as stack:
        for moment in moments:
            try:
                # After the first moment the directory is this run's, and its log has nothing newer than its checkpoint.
                tracker = tracker or (working and stack.enter_context(open_tracker(directory, name)))
                if moment.logged and working:
                    send(tracker, directory, name)
            except Exception as error:  # whatever the service raises
                working = False
                log.warning(LOST, name, error)
            yield moment


def send(tracker: Any, directory: Path, name: str) -> None:
    """Send the lines of the log that a service does not have yet, and note which those were."""
    mark = directory / "tracked.json"
    sent = read_mark(mark)
    last = sent.get(name, 0)
    for line in read_log(directory / "metrics.jsonl"):
        if line["images"] > last:
            tracker.log(numbers(line), step=line["images"])
            sent[name] = line["images"]
    with atomic(mark) as temporary:
        temporary.write_text(json.dumps({name: {"images": images} for name, images in sent.items()}) + "\n")


def read_mark(file: Path) -> dict[str, int]:
    """Return up to which image each service has the log; of a damaged file nothing is known."""
    try:
        return {name: int(row["images"]) for name, row in parse_json(read_bytes(file, MOST_MARK)).items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


@contextmanager
def open_tracker(directory: Path, name: str) -> Iterator[Any]:
    """Give a service that knows the run's settings, and let it write what it still keeps at the end."""
    settings = flatten(json.loads((directory / "recipe.json").read_text()))
    with redirect_stdout(sys.stderr):  # standard output is for the outcome, which may be JSON
        tracker: Any = SERVICES[name](directory.resolve())
        tracker.start()
        tracker.store_init_configuration({key: str(value) for key, value in settings.items()})
    try:
        yield tracker
    finally:
        try:
            with redirect_stdout(sys.stderr):
                tracker.finish()
        except Exception as error:  # whatever the service raises
            log.warning(LOST, name, error)


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of the log by path: loss/student, evaluation/kid."""
    leaves = {name.replace(".", "/"): value for name, value in flatten(line).items() if name != "images"}
    return {name: float(value) for name, value in leaves.items() if type(value) in (int, float)}
