"""From a command to its first training step: a process of its own, timed from outside."""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from d2o.checkpoints.shipped import shipped

LONGEST = 300.0
"""Seconds after which nobody waits any longer."""


def first_step(folder: Path, repeats: int = 3) -> list[float]:
    """Return the seconds from `d2o finetune` on digits to the first line of its log, for each repeat after the first.

    The first fills the caches of files. Raises ValueError when the command fails.
    """
    return [until_logged(folder / f"start{repeat}") for repeat in range(repeats + 1)][1:]


def until_logged(directory: Path, *settings: str) -> float:
    """Return the seconds until a run that is started in a directory has trained once; it is then stopped."""
    words = ("--from", str(shipped("digits-teacher")), "--data", "digits", "--recipe", "digits-d2o-f")
    command = [sys.executable, "-m", "d2o", "finetune", *words, "--images", "64", "--out", str(directory), *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            while not (directory / "metrics.jsonl").exists():
                if process.poll() is not None or time.perf_counter() - began > LONGEST:
                    process.kill()
                    raise ValueError(f"d2o finetune did not come to train: {process.communicate()[1].strip()[-300:]}")
                time.sleep(0.01)
            return time.perf_counter() - began
        finally:
            process.kill()
