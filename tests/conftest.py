"""For all tests: no network, one thread, and denoisers so small that they cost nothing."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any library reads it
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable
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
