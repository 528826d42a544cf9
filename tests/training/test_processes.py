"""Two processes that train together are one process with the whole batch, also where each holds parts of weights."""

import json
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
from d2o.training.run import Habits
from d2o.training.sharding import check_sharding

from .sharded import CASES, damped_adam, go_on, train_cases, weights_of
from .tiny import BATCH, plain_steps
from .two_processes import two_iterations


def start(folder: Path, data: Path, rank: int, port: int) -> subprocess.Popen:
    """Start one of two processes as torchrun would."""
    setting = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    environment = {**os.environ, **{name: str(value) for name, value in setting.items()}, "MASTER_ADDR": "127.0.0.1"}
    script = Path(__file__).parent / "two_processes.py"
    return subprocess.Popen(
        [sys.executable, *map(str, (script, folder, data))], env=environment, stderr=subprocess.PIPE
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_data):
    """Return what two processes, and one, have left."""
    folder, teacher, alone = tmp_path_factory.mktemp("processes"), make_denoiser(classes=2), Accelerator(cpu=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(optimizers, "Adam", damped_adam)
            go_on(folder / "whole, then sharded", tiny_data, teacher, alone, False, 3 * BATCH)
            processes += [start(folder, tiny_data, rank, port) for rank in (0, 1)]
            go_on(folder / "alone", tiny_data, teacher, alone, False)
            train_cases(folder, teacher, alone)
            patch.setattr(optimizers, "Adam", plain_steps)
            two_iterations(folder, teacher, alone)
            for process in processes:
                _, errors = process.communicate(timeout=240)
                assert process.returncode == 0, errors.decode()[-2000:]
            patch.setattr(optimizers, "Adam", damped_adam)
            go_on(folder / "sharded, then whole", tiny_data, teacher, alone, False)
    finally:
        for process in processes:
            process.kill()
    return folder


@pytest.fixture(scope="module")
def states(folder):
    """Return the states of both recipes by (name, rank, world)."""
    names = [
        (name, rank, world) for name in ("pretrain", "d2o-f", "frechet") for rank, world in ((0, 1), (0, 2), (1, 2))
    ]
    return {key: load_file(folder / "{}-{}-of-{}.safetensors".format(*key)) for key in names}


@pytest.mark.parametrize("name", ["pretrain", "d2o-f", "frechet"])
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


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


class TestSharded:
    @pytest.mark.parametrize("name", CASES)
    def test_they_learn_what_one_process_learns(self, folder, name):
        alone, together = (load_file(folder / f"{name}-of-{world}.safetensors") for world in (1, 2))
        held = [one.pop("bytes").item() for one in (together, alone)]
        assert 0.5 <= held[0] / held[1] < 0.52  # single numbers are whole
        assert_close(together, alone)
        assert ("loss.3.r1" in alone) == (name == "adversarial")

    @pytest.mark.parametrize("name", ["whole, then sharded", "sharded, then whole", "sharded"])
    def test_a_run_continues_whether_sharded_or_not(self, folder, name):
        assert_close(weights_of(folder / name), weights_of(folder / "alone"))
        read = [(folder / run / "metrics.jsonl").read_text().splitlines() for run in (name, "alone")]
        found, expected = ([json.loads(line)["evaluation"] for line in lines if "evaluation" in line] for lines in read)
        assert [row["images"] for row in found] == [row["images"] for row in expected] == [8, 16]
        assert [row["kid"] for row in found] == pytest.approx([row["kid"] for row in expected], abs=1e-5)
        pictures = [{file.name for file in (folder / run / "samples").iterdir()} for run in (name, "alone")]
        assert pictures[0] == pictures[1] != set()

    def test_a_stopped_run_goes_on_to_the_same_bits(self, folder):
        found, expected = weights_of(folder / "stopped"), weights_of(folder / "sharded")
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []

    def test_what_cannot_be_sharded_is_refused(self, tiny_denoiser):
        with pytest.raises(ValueError, match="torchrun --nproc_per_node"):
            check_sharding(tiny_denoiser(), 1)
        with pytest.raises(ValueError, match="middle_sigmas"):
            check_sharding(tiny_denoiser().replace(middle_sigmas=(0.8,)), 2)
        with pytest.raises(ValueError, match="--compile"):
            Habits(shard=True, compile=True)
