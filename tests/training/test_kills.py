"""A run that is killed twenty times, at any moment, comes to the bits of one that was left alone."""

import json
import multiprocessing
import random
import shutil
import signal
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import d2o
from d2o.training.networks import networks
from d2o.training.run import Habits, run

from .command import assert_same_result
from .tiny import BATCH, RECIPES

KILLS, IMAGES = 20, 24 * BATCH
HABITS = Habits(log_every=BATCH, save_every=BATCH, sample_every=8 * BATCH, sample_seeds=range(4))


def train(out: Path, teacher: Path, data: Path) -> None:
    """Do hardly anything but write files."""
    recipe = replace(RECIPES["pretrain"], duration=IMAGES)
    deque(run(out, recipe, networks(recipe, d2o.load(teacher)), d2o.images(data), habits=HABITS), maxlen=0)


def test_twenty_kills_change_no_bit(tmp_path, teacher, tiny_data):
    context = multiprocessing.get_context("forkserver")  # its processes have imported all that they need
    context.set_forkserver_preload(["d2o.training.fit"])

    def start(out: Path):
        process = context.Process(target=train, args=(out, teacher, tiny_data))
        process.start()
        return process

    start(tmp_path / "first").join()
    began = time.monotonic()
    start(tmp_path / "whole").join()
    seconds, generator, kills, out = time.monotonic() - began, random.Random(0), 0, tmp_path / "killed"
    while kills < KILLS:
        process = start(out)
        process.join(generator.uniform(0.1, 0.5) * seconds)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode != 0
        if (out / "checkpoint.safetensors").exists():
            assert d2o.load(out).num_classes == 2, "a run can be looked at before its end"
        if process.exitcode == 0:
            assert_same_result(out, tmp_path / "whole")
            shutil.rmtree(out)
    if out.exists():
        with (out / "metrics.jsonl").open("a") as log:  # as if it had been killed in its next line
            log.write(f'{json.dumps({"images": IMAGES})}\n{{"imag')
    train(out, teacher, tiny_data)
    assert_same_result(out, tmp_path / "whole")
