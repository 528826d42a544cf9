"""A run's log sent elsewhere, too, through accelerate's trackers: TensorBoard, trackio or Weights & Biases.

metrics.jsonl stays what counts. `tracked.json` says up to which image its lines were sent to each service, so that a
run that continues sends each line once.
"""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from accelerate import tracking

from d2o.files import atomic

from .run import Moment
from .run_directory import flatten

SERVICES: dict[str, Callable[[Path], tracking.GeneralTracker]] = {
    "tensorboard": lambda run: tracking.TensorBoardTracker("tensorboard", run),
    "trackio": lambda run: tracking.TrackioTracker("d2o", name=run.name, resume="allow"),
    "wandb": lambda run: tracking.WandBTracker(
        "d2o", name=run.name, id=hashlib.sha256(str(run).encode()).hexdigest()[:16], dir=str(run), resume="allow"
    ),
}


def check_service(name: str) -> None:
    if name not in SERVICES:
        raise ValueError(f"Runs cannot be tracked by {name!r}: there are {', '.join(SERVICES)}.")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"Tracking by {name} needs its package: pip install -e '.[{name}]' in d2o's folder.")


def track(moments: Iterable[Moment], directory: Path, name: str) -> Iterator[Moment]:
    """Pass the moments of a run on, and send the lines that its log gains to a service."""
    tracker: Any = None
    log, mark = directory / "metrics.jsonl", directory / "tracked.json"
    with ExitStack() as stack:
        for moment in moments:
            # After the first moment the directory is this run's, and its log has nothing newer than its checkpoint.
            tracker = tracker or stack.enter_context(open_tracker(directory, name))
            if moment.logged:
                sent = json.loads(mark.read_text()) if mark.exists() else {}
                last = sent.get(name, {"images": 0})["images"]
                for line in map(json.loads, log.read_text().splitlines()):
                    if line["images"] > last:
                        tracker.log(numbers(line), step=line["images"])
                        sent[name] = {"images": line["images"]}
                with atomic(mark) as temporary:
                    temporary.write_text(json.dumps(sent) + "\n")
            yield moment


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
        with redirect_stdout(sys.stderr):
            tracker.finish()


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of the log by path: loss/student, evaluation/kid."""
    leaves = {name.replace(".", "/"): value for name, value in flatten(line).items() if name != "images"}
    return {name: float(value) for name, value in leaves.items() if type(value) in (int, float)}
