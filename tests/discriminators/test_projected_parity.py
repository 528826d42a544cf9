"""The projected discriminator gives the reference's numbers: all of them where they are at hand, else a few."""

import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from d2o.discriminators import Projected, ProjectedDiscriminator

# The reference's names, and ours. A convolution under spectral norm keeps its weight and two vectors.
NAMES = (
    (r"^projection\.layer(\d)_ccm\.", r"projections.0.channel_mixing.\1."),
    (r"^projection\.layer(\d)_csm\.out_conv\.", r"projections.0.scale_mixing.\1."),
    (r"^heads\.mini_discs\.(\d)\.main\.(\d)\.main\.(\d)\.", r"heads.0.\1.blocks.\2.\3."),
    (r"^heads\.mini_discs\.(\d)\.main\.\d\.weight_", r"heads.0.\1.last.weight_"),
    (r"weight_orig$", "parametrizations.weight.original"),
    (r"weight_([uv])$", r"parametrizations.weight.0._\1"),
)


def ours(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.skipif("D2O_PARITY" not in os.environ, reason="D2O_PARITY names no folder of reference arrays")
def test_equals_the_reference() -> None:
    arrays = load_file(Path(os.environ["D2O_PARITY"]) / "projected.safetensors")
    discriminator = Projected(size=128, width=512, weights="random").build((3, 32, 32)).eval()
    state = {ours(name): array for name, array in arrays.items() if name.startswith(("projection.", "heads."))}
    discriminator.load_state_dict(state)
    with torch.no_grad():
        maps = discriminator.projections[0]([arrays[f"taps.{level}"] for level in range(4)])
        logits = discriminator.judge([[arrays[f"projected.{level}"] for level in range(4)]])[0]
        all_through = discriminator.judge([maps])[0]
    for level in range(4):
        assert relative(maps[level], arrays[f"projected.{level}"]) < 1e-5
    assert relative(logits, arrays["logits"]) < 1e-4
    assert relative(all_through, arrays["logits"]) < 1e-4


def wave(shape: torch.Size, phase: int) -> Tensor:
    """A tensor by a formula: the same on every machine, without a random generator."""
    count = shape.numel()
    return torch.sin(torch.arange(count, dtype=torch.float64) * 0.37 + phase).float().reshape(shape)


def formula_state(discriminator: ProjectedDiscriminator) -> dict[str, Tensor]:
    state = {}
    for phase, (name, tensor) in enumerate(discriminator.state_dict().items()):
        values = wave(tensor.shape, phase)
        if name.endswith(("_u", "_v")):
            values = values / values.norm()
        elif name.endswith("running_var"):
            values = 1 + values / 2
        elif tensor.ndim == 4:
            values = values / tensor[0].numel() ** 0.5
        state[name] = values if tensor.is_floating_point() else tensor
    return state


# Made by this code when it had passed the test above: one value and the mean size of every map; the logits.
MAPS = ((-2.16253, 1.41522), (1.49718, 1.76501), (-3.9498, 3.32035), (-10.89855, 7.23009))
LOGITS = ((-4.615493, -8.584697, -26.442581, 0.407811), (-4.617821, -8.585794, -30.768774, 4.568135))


def test_equals_stored_numbers() -> None:
    discriminator = Projected(size=128, width=16, weights="random").build((3, 32, 32)).eval()
    discriminator.load_state_dict(formula_state(discriminator))
    taps = [wave(torch.Size((2, width, side, side)), width) for width, side in ((24, 32), (40, 16), (112, 8), (320, 4))]
    with torch.no_grad():
        maps = discriminator.projections[0](taps)
        logits = discriminator.judge([maps])[0]
    for projected, (value, size) in zip(maps, MAPS, strict=True):
        assert projected[1, 3, 1, 2].item() == pytest.approx(value, rel=1e-4)
        assert projected.abs().mean().item() == pytest.approx(size, rel=1e-4)
    assert relative(logits, torch.tensor(LOGITS)) < 1e-4
