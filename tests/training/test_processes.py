"""Two processes that train together are one process with the whole batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from conftest import make_denoiser  # pyright: ignore[reportAttributeAccessIssue]  (not the one beside this file)
from d2o.training import optimizers

from .tiny import BATCH, plain_steps
from .two_processes import two_iterations


def start(folder: Path, rank: int, port: int) -> subprocess.Popen:
    """Start one of two processes as torchrun would."""
    setting = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    environment = {**os.environ, **{name: str(value) for name, value in setting.items()}, "MASTER_ADDR": "127.0.0.1"}
    script = Path(__file__).parent / "two_processes.py"
    return subprocess.Popen([sys.executable, str(script), str(folder)], env=environment, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """Return the states of both recipes by (name, rank, world)."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(folder, rank, port) for rank in (0, 1)]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(optimizers, "Adam", plain_steps)
            two_iterations(folder, make_denoiser(classes=2), Accelerator(cpu=True))
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors.decode()[-2000:]
    finally:
        for process in processes:
            process.kill()
    names = [(name, rank, world) for name in ("pretrain", "d2o-f") for rank, world in ((0, 1), (0, 2), (1, 2))]
    return {key: load_file(folder / "{}-{}-of-{}.safetensors".format(*key)) for key in names}


@pytest.mark.parametrize("name", ["pretrain", "d2o-f"])
class TestTwoProcesses:
    def test_they_hold_the_same_weights(self, states, name):
        first, second = states[name, 0, 2], states[name, 1, 2]
        assert [key for key in first if key != "seen" and not torch.equal(first[key], second[key])] == []

    def test_they_see_different_images_and_together_all(self, states, name):
        first, second = (states[name, rank, 2]["seen"].tolist() for rank in (0, 1))
        assert not set(first) & set(second)
        assert sorted(first + second) == sorted(states[name, 0, 1]["seen"].tolist()) == list(range(2 * BATCH))

    def test_they_learn_what_one_process_learns_from_the_whole_batch(self, states, name):
        alone, together = states[name, 0, 1], states[name, 0, 2]
        assert alone.keys() == together.keys()
        floats = [key for key in alone if alone[key].is_floating_point()]
        assert any(key.startswith("discriminator.") for key in floats) == (name == "d2o-f")
        for key in floats:
            torch.testing.assert_close(
                together[key], alone[key], rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
            )
        pairs = [(key, "ema." + key.removeprefix("student.")) for key in floats if "student." in key]
        moved = [alone[key] - alone[average] for key, average in pairs if average in alone]
        assert max(float(step.abs().max()) for step in moved) > 1e-3  # the steps were far larger than the tolerance
