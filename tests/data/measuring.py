"""Opening data in a process of its own, so that its time and memory are its own."""

import multiprocessing
import resource
import subprocess
import time
from multiprocessing.connection import Connection
from pathlib import Path

import PIL.Image
import pyarrow.parquet

from d2o.data.datasets import open_images
from d2o.encoders.codec import open_network, read_config
from d2o.metrics import statistics

SECONDS, BYTES = 5, 1 << 30
PIL.Image.init()
assert pyarrow.parquet  # imported before it is measured

USES = {
    "images": lambda path: open_images(path, resolution=8, resize="center-crop", channels=3, background="none").pixels(
        [0]
    ),
    "statistics": statistics.load,
    "codec": lambda path: read_config(str(path)),
    "autoencoder": lambda path: open_network(str(path)),
}


def use(name: str, path: Path, answer: Connection) -> None:
    began, before = time.process_time(), peak()
    try:
        USES[name](path)
        error = None
    except ValueError as problem:
        error = str(problem)
    except BaseException as problem:
        error = f"undeclared: {problem!r}"
    answer.send((error, time.process_time() - began, peak() - before))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, path: Path, seconds: float = 30) -> tuple[str | None, float, int]:
    """Return the error, if any, of using a path; processor time in seconds; memory in bytes beyond the imports'."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=use, args=(name, path, there))
    process.start()
    there.close()
    try:
        assert here.poll(seconds), f"{path} hangs"
        return here.recv()
    finally:
        process.kill()
        process.join()


def check(use: str, path: Path, *words: str) -> None:
    """Expect that using a path, which is removed, ends in an error with these words, in time and memory."""
    try:
        error, seconds, taken = measure(use, path)
    finally:
        subprocess.run(
            ["rm", "-rf", path if path.is_dir() else path.parent], check=True
        )  # some are too deep for Python
    assert error is not None, "nothing was wrong with it"
    assert not error.startswith("undeclared"), error
    assert error.isprintable() and len(error) < 1500
    for word in words:
        assert word in error, error
    assert seconds < SECONDS and taken < BYTES, (seconds, taken)
