"""SiT: its samples are those of Euler steps through its own velocity, whatever the path; and it becomes a student."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

import d2o
from d2o import backbones
from d2o.checkpoints import inspect
from d2o.diffusion.sampling import euler_step, sample
from d2o.training.fit import finetune
from d2o.training.freezing import default_rules, freeze

SIZES = {"resolution": 8, "in_channels": 3, "num_classes": 2, "channels": 32, "num_blocks": 2, "num_heads": 4}
CONFIG = {"num_heads": 4}


@pytest.fixture(scope="module")
def whole() -> backbones.Backbone:
    """Return a network that predicts a velocity and, beside it, a sigma that is never used."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = backbones.build({"kind": "dit", **SIZES, "out_channels": 6}).eval()
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.fixture
def path(tmp_path, whole) -> Path:
    torch.save(whole.state_dict(), tmp_path / "SiT-tiny.pt")
    return tmp_path / "SiT-tiny.pt"


def draw(denoiser: d2o.Denoiser, noise: Tensor, label: Tensor, steps: int) -> Tensor:
    sigmas = denoiser.preconditioning.sigmas(steps)
    return sample(lambda x, sigma: denoiser(x, sigma, label), noise, sigmas, euler_step)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_samples_are_euler_steps_of_its_velocity(path, whole, steps):
    denoiser = d2o.load(path, config=CONFIG)
    noise, label = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    x = noise
    for step in range(steps):  # its time is 0 for noise and 1 for an image
        x = x + whole(x, torch.full((2,), step / steps), label)[:, :3] / steps
    torch.testing.assert_close(draw(denoiser, noise, label, steps), x, rtol=0, atol=2e-6)


@torch.no_grad()
def test_the_trigonometric_path(path, whole):
    denoiser, time, label = d2o.load(path, config=CONFIG | {"path_type": "GVP"}), 0.3, torch.tensor([1])
    x0, noise = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    signal, spread = math.sin(math.pi / 2 * time), math.cos(math.pi / 2 * time)
    mixed = signal * x0 + spread * noise
    velocity = whole(mixed, torch.tensor([time]), label)[:, :3]
    wanted = signal * mixed + spread * velocity / (math.pi / 2)  # as velocity = pi / 2 (spread x0 - signal noise)
    found = denoiser(mixed / signal, spread / signal, label)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


@torch.no_grad()
@pytest.mark.skipif("D2O_PARITY" not in os.environ, reason="D2O_PARITY names no folder with the full parity files")
def test_samples_are_those_that_its_code_wrote(tmp_path):
    file = Path(os.environ["D2O_PARITY"]) / "sit.safetensors"
    tensors = safetensors.torch.load_file(file)
    with safe_open(file, "pt") as opened:
        config = json.loads(opened.metadata()["config"])
    state = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
    torch.save(state, tmp_path / "x.pt")
    denoiser = d2o.load(tmp_path / "x.pt", family="sit", config=config)
    for steps in (1, 4, 50):
        found = draw(denoiser, tensors["noise"], tensors["y"], steps)
        torch.testing.assert_close(found, tensors[f"euler{steps}"], rtol=0, atol=1e-6)
    found = denoiser.backbone(tensors["noise"], tensors["t"], tensors["y"])
    torch.testing.assert_close(found, tensors["v"], rtol=0, atol=1e-6)


def test_it_comes_back_from_our_own_file_and_becomes_a_one_step_student(tmp_path, path):
    teacher = d2o.load(path, config=CONFIG)
    d2o.save(tmp_path / "own.safetensors", teacher)
    again = d2o.load(tmp_path / "own.safetensors")
    assert (
        again.preconditioning == teacher.preconditioning and inspect(tmp_path / "own.safetensors").as_dict()["assumed"]
    )
    share = freeze(again, default_rules(again))
    judge: Any = {"discriminator.weights": "random", "discriminator.size": 32, "discriminator.width": 16}
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(8) % 2)
    run_settings = {"out": tmp_path / "run", "duration": 8, "batch_size": 4, **judge}
    made = finetune(teacher, tmp_path / "data.npz", "dit-d2o-f", **run_settings)
    assert made.share == share and 0.5 < share.frozen / share.total < 0.95 and made.denoiser.one_step
    moved = {
        name
        for name, tensor in made.denoiser.state_dict().items()
        if not torch.equal(tensor, teacher.state_dict()[name])
    }
    assert moved and not any(
        name.endswith(("adaLN_modulation.1.weight", "fc1.weight")) for name in moved if "blocks" in name
    )
