"""One option says where a command computes, and a device that is not there is one sentence with a remedy."""

import importlib
import inspect
import pkgutil
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from d2o.cli import commands
from d2o.cli.main import run
from d2o.devices import find_device
from d2o.training.loop import group

COMPUTING = {
    "analyze",
    "demo",
    "encode",
    "estimate",
    "evaluate",
    "finetune",
    "pretrain",
    "sample",
    "serve",
    "statistics",
}
"""Commands with the option, besides the app, whose help is the server's; an export computes on the processor."""


@pytest.fixture
def gpus(monkeypatch):
    """Let PyTorch see so many GPUs of a kind."""

    def see(kind: str, count: int) -> None:
        here = {"is_available": bool(count), "current_accelerator": torch.device(kind), "device_count": count}
        for name, value in here.items():
            monkeypatch.setattr(torch.accelerator, name, lambda value=value: value)

    return see


@pytest.mark.parametrize(("kind", "count", "found"), [("cuda", 2, "cuda"), ("mps", 1, "mps"), ("cuda", 0, "cpu")])
def test_auto_takes_a_gpu_where_there_is_one(gpus, kind, count, found):
    gpus(kind, count)
    assert find_device() == torch.device(found)
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_a_gpu_that_is_there_is_taken(gpus, name):
    gpus("cuda", 2)
    assert find_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("count", "name", "says"),
    [
        (0, "cuda", "sees cpu;"),
        (2, "cuda:2", "cuda (2 of them)"),
        (1, "mps", "cuda (1 of them)"),
        (0, "gpu", "choose auto"),
    ],
)
def test_another_is_refused_with_what_is_there(gpus, count, name, says):
    gpus("cuda", count)
    with pytest.raises(ValueError, match=f"--device {name}") as refused:
        find_device(name)
    assert says in str(refused.value)


def test_torchrun_gives_each_process_its_own(gpus, monkeypatch):
    gpus("cuda", 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="leave it out"):
        group("cuda:1")


def test_a_run_takes_the_device_that_is_named(gpus, monkeypatch):
    gpus("cuda", 2)
    taken = []
    monkeypatch.setattr(torch.accelerator, "set_device_index", taken.append)
    monkeypatch.setattr("d2o.training.loop.Accelerator", lambda cpu: SimpleNamespace(cpu=cpu))
    made: Any = [group("cuda:1"), group("cpu"), group()]
    assert ([one.cpu for one in made], taken) == ([False, True, False], [1])


@pytest.mark.parametrize("command", sorted(COMPUTING))
def test_every_command_that_computes_has_the_option(command, capsys):
    words = [command, *(["minima"] if command == "analyze" else []), "--help"]
    with suppress(SystemExit):
        run(words)
    assert "--device auto|cpu|cuda|cuda:1|mps" in capsys.readouterr().out


def test_no_command_has_a_device_of_its_own():
    for module in pkgutil.iter_modules(commands.__path__):
        loaded = importlib.import_module(f"{commands.__name__}.{module.name}")
        assert "device: str" not in inspect.getsource(loaded), module.name


def test_a_device_that_is_not_there_is_refused_before_any_work(gpus, capsys, tmp_path):
    gpus("cuda", 0)
    arguments = ["sample", "digits-small", "--out", str(tmp_path / "a.png"), "--device", "cuda"]
    assert run(arguments) == 2
    assert "--device cuda is not there" in capsys.readouterr().err
