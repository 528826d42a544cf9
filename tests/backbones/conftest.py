"""Small networks of every kind, with weights of a closed formula: every path matters and nothing is random."""

import math

import pytest
import torch
from torch import Tensor

from d2o.backbones import Backbone, build

SMALL = {"resolution": 8, "in_channels": 3, "out_channels": 3, "num_classes": 4, "augmentation_dim": 9, "num_blocks": 1}
SMALL |= {"channels": 16, "channel_multipliers": [1, 2], "attention_resolutions": [4]}
NCSNPP = {
    "embedding": "fourier",
    "noise_embedding_multiplier": 2,
    "encoder": "residual",
    "resample_filter": [1, 3, 3, 1],
}
SPECS = {
    "ddpmpp": {"kind": "song_unet", **SMALL},
    "ncsnpp": {"kind": "song_unet", **SMALL, **NCSNPP},
    "skips": {"kind": "song_unet", **SMALL, "encoder": "skip", "decoder": "skip", "resample_filter": [1, 3, 3, 1]},
    "folded": {"kind": "song_unet", **SMALL, "patch_size": 2},
    "adm": {"kind": "dhariwal_unet", **SMALL},
}


@torch.no_grad()
def fill(network: Backbone) -> Backbone:
    """Set parameter number i to waves of its running index: variance about 1 / fan in, norms near 1, biases near 0."""
    for number, (name, parameter) in enumerate(network.named_parameters()):
        wave = torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) ** 1.1 + number).view_as(parameter)
        if parameter.dim() > 1:
            wave *= math.sqrt(2 / parameter[0].numel())
        else:
            wave = 0.1 * wave + ("norm" in name and name.endswith("weight"))
        parameter.copy_(wave)
    for name, buffer in network.named_buffers():
        if name.endswith("freqs"):
            buffer.copy_(torch.linspace(-2, 3, len(buffer)))
    return network


def images(count: int, size: int = 8) -> Tensor:
    """Return smooth images [count, 3, size, size] of deviation about 0.7, all different."""
    index = torch.arange(count * 3 * size * size, dtype=torch.float64)
    return torch.sin(0.05 * index**1.2).float().view(count, 3, size, size)


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> dict:
    return dict(SPECS[request.param])


@pytest.fixture
def network(spec: dict) -> Backbone:
    return fill(build(spec)).eval()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """The arguments of a forward pass for four images."""
    return {
        "x": images(4),
        "noise": torch.tensor([-1.5, -0.3, 0.4, 1.1]),
        "condition": torch.tensor([0, 3, 1, 2]),
        "augmentation": torch.linspace(-1, 1, 36).view(4, 9),
    }
