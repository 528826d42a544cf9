"""Outputs equal those of the reference networks: same weights, same names, every preconditioning, 18 steps of Heun.

The two small files are in the repository. Set D2O_PARITY to a folder with more files of this form to run those.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from d2o.backbones import Backbone, build
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, VE, VP, Boundary, Preconditioning
from d2o.diffusion.noise import karras_sigmas
from d2o.diffusion.sampling import heun_step, sample

from .conftest import fill, images

HERE = Path(__file__).parents[1] / "fixtures" / "parity"
FOLDERS = [HERE] + ([Path(os.environ["D2O_PARITY"])] if "D2O_PARITY" in os.environ else [])
KINDS = {"SongUNet": "song_unet", "DhariwalUNet": "dhariwal_unet"}
WORDS = {
    "img_resolution": "resolution",
    "label_dim": "num_classes",
    "augment_dim": "augmentation_dim",
    "model_channels": "channels",
    "channel_mult": "channel_multipliers",
    "attn_resolutions": "attention_resolutions",
    "embedding_type": "embedding",
    "channel_mult_noise": "noise_embedding_multiplier",
    "encoder_type": "encoder",
    "decoder_type": "decoder",
}
PRECONDITIONINGS: dict[str, Preconditioning] = {"edm": EDM(), "vp": VP(), "ve": VE(), "d2o": Boundary()}
PREFIX = "weights.model."


def cases() -> Iterator[tuple[Path, str]]:
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                names = file.keys() if "config" in (file.metadata() or {}) else []
                yield from ((path, name.removeprefix("out.")) for name in names if name.startswith("out."))


def reference_network(path: Path, tensors: dict[str, Tensor]) -> Backbone:
    """Build the network that a file describes in the reference's words and load its weights strictly."""
    with safe_open(path, "pt") as file:
        config: dict[str, Any] = json.loads((file.metadata() or {})["config"])
    kind, channels = KINDS[config.pop("model_type")], config.pop("img_channels")
    options: dict[str, Any] = {WORDS.get(word, word): value for word, value in config.items()}
    network = build({"kind": kind, "in_channels": channels, "out_channels": channels, **options}).eval()
    weights = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    network.load_state_dict(weights, strict=True)
    return network


@torch.no_grad()
@pytest.mark.parametrize(("path", "name"), [pytest.param(*case, id=f"{case[0].stem}-{case[1]}") for case in cases()])
def test_reference_outputs(path: Path, name: str) -> None:
    tensors = load_file(path)
    if name == "edm_heun18" and path.parent == HERE:  # 35 calls: two images tell enough
        tensors |= {key: tensors[key][:2] for key in ("noise", "labels", f"out.{name}") if key in tensors}
    network = reference_network(path, tensors)
    rows = tensors.get("labels")
    if rows is not None:
        assert torch.equal(rows, torch.eye(rows.shape[1])[rows.argmax(1)]), "labels are one-hot"
    label = None if rows is None else rows.argmax(1)
    family = PRECONDITIONINGS[name.split("_")[0]]
    expected = tensors[f"out.{name}"]

    def output(preconditioning: Preconditioning) -> Tensor:
        denoiser = Denoiser(network, preconditioning, (3, 16, 16), 0 if rows is None else rows.shape[1])
        if name == "d2o_one_step":
            return denoiser(80 * tensors["noise"], 80.0, label)
        if name == "edm_heun18":
            return sample(lambda x, s: denoiser(x, s, label), tensors["noise"].double(), karras_sigmas(18), heun_step)
        augmentation = tensors["augment_labels"] if name.endswith("_augment") else None
        return denoiser(tensors["x"], tensors["sigma"], label, augmentation)

    assert float((output(family) - expected).abs().max() / expected.std()) < 1e-4


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
