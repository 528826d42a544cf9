"""For all tests: no network, one thread, no traces of other tests, and denoisers so small that they cost nothing."""

import logging
import os
import signal
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # before any library reads it
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2o import backbones
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM

torch.set_num_threads(1)

TINY = {"kind": "song_unet", "channels": 8, "channel_multipliers": [1], "num_blocks": 1, "attention_resolutions": []}
TINY |= {"embedding_multiplier": 2, "dropout": 0.0}


def make_denoiser(seed: int = 0, channels: int = 1, classes: int = 0, **config: Any) -> Denoiser:
    """Return an 8x8 denoiser all of whose layers matter: fresh networks would nearly be the identity."""
    sizes = {"resolution": 8, "in_channels": channels, "out_channels": channels, "num_classes": classes}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        backbone = backbones.build({**TINY, **sizes, **config})
        for parameter in backbone.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return Denoiser(backbone, EDM(), (channels, 8, 8), classes).eval()


@pytest.fixture(scope="session")
def tiny_denoiser() -> Callable[..., Denoiser]:
    """Return the function that makes tiny denoisers: `tiny_denoiser(seed, channels, classes, **config)`."""
    return make_denoiser


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of 40 grey 8x8 images with two classes, as an .npz file."""
    file = tmp_path_factory.mktemp("data") / "tiny.npz"
    levels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    np.savez(file, images=levels, labels=np.arange(40) % 2)
    return file


TABLES = {
    "d2o.backbones": ("BACKBONES",),
    "d2o.diffusion.families": ("PRECONDITIONINGS",),
    "d2o.objectives": ("OBJECTIVES",),
    "d2o.discriminators": ("DISCRIMINATORS",),
    "d2o.data.sources": ("READERS",),
    "d2o.training.recipes": ("RECIPES", "STAGES"),
}
"""What `--import` adds to."""


def remember_state() -> Callable[[], None]:
    """Return what sets this process back: commands leave it changed, as theirs ends with them."""
    modules = [(sys.modules[name], tables) for name, tables in TABLES.items() if name in sys.modules]
    tables = [(table := getattr(module, name), dict(table)) for module, names in modules for name in names]
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    log, folder, path = logging.getLogger("d2o"), Path.cwd(), [*sys.path]
    level, handlers, propagate = log.level, [*log.handlers], log.propagate

    def restore() -> None:
        for table, content in tables:
            table.clear()
            table.update(content)
        for number, handler in signals.items():
            signal.signal(number, handler)
        log.handlers, log.propagate, sys.path[:] = handlers, propagate, path
        log.setLevel(level)
        os.chdir(folder)
        if plugins := sys.modules.get("d2o.cli.plugins"):
            plugins.IMPORTED.clear()
            plugins.FOLDERS.clear()
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
        torch.set_grad_enabled(True)

    return restore


@pytest.fixture(scope="session", autouse=True)
def restore_state() -> Callable[[], None]:
    """Return what sets this process back to where the first test found it."""
    return remember_state()


@pytest.fixture(scope="module", autouse=True)
def leave_no_traces(restore_state: Callable[[], None]) -> Iterator[None]:
    """Let files of tests run in any order."""
    yield
    restore_state()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let no test's random numbers depend on the tests before it."""
    torch.manual_seed(0)


def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than there are cores: many tests wait, for servers, signals and processes of their own."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


LONG = (
    "test_other_commands",
    "test_digits",
    "test_examples",
    "test_kills",
    "test_commands",
    "test_export",
    "test_streams",
)
"""Files of few tests that take long."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)
