"""Outputs equal those of the reference networks: same weights, same names, every preconditioning, 18 steps of Heun.

The two small files are in the repository. Set D2O_PARITY to a folder with more files of this form to run those.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from d2o.backbones import build

from .conftest import fill, images
from .reference import HERE, difference, outputs_in, reference_network

FOLDERS = [HERE] + ([Path(os.environ["D2O_PARITY"])] if "D2O_PARITY" in os.environ else [])


def cases() -> Iterator[tuple[Path, str]]:
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.safetensors")):
            yield from ((path, name) for name in outputs_in(path))


@pytest.mark.parametrize(("path", "name"), [pytest.param(*case, id=f"{case[0].stem}-{case[1]}") for case in cases()])
def test_reference_outputs(path: Path, name: str) -> None:
    tensors = load_file(path)
    if name == "edm_heun18" and path.parent == HERE:  # 35 calls: two images tell enough
        tensors |= {key: tensors[key][:2] for key in ("noise", "labels", f"out.{name}") if key in tensors}
    assert difference(reference_network(path, tensors), tensors, name) < 1e-4


ADM = {"kind": "dhariwal_unet", "resolution": 16, "in_channels": 3, "out_channels": 3, "num_classes": 10}
ADM |= {"channels": 64, "channel_multipliers": [1, 2], "num_blocks": 1, "attention_resolutions": [8]}


@torch.no_grad()
def adm_outputs() -> Tensor:
    """Return the outputs [2, 3, 16, 16] of an ADM network with two attention heads and formula weights."""
    network = fill(build(ADM)).eval()
    return network(images(2, 16), torch.tensor([-1.2, 0.9]), torch.tensor([7, -1]))


def test_adm_formula_weights() -> None:
    """The stored outputs are this library's own, kept when the reference's full file (13 MB) passed the test above."""
    expected = load_file(HERE / "adm_formula.safetensors")["expected"]
    assert float((adm_outputs() - expected).abs().max() / expected.std()) < 1e-4


@pytest.mark.skipif("D2O_PARITY" not in os.environ, reason="D2O_PARITY names no folder with the full parity files")
def test_the_full_files_are_there() -> None:
    assert {"adm", "ddpmpp", "ncsnpp"} <= {path.stem for path, _ in cases() if path.parent == FOLDERS[-1]}
