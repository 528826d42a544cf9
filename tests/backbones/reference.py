"""Files of a reference's weights, inputs and outputs, and what this library makes of the same: for tests and GPUs."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from d2o.backbones import Backbone, build
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, VE, VP, Boundary, Preconditioning
from d2o.diffusion.noise import karras_sigmas
from d2o.diffusion.sampling import heun_step, sample

HERE = Path(__file__).parents[1] / "fixtures" / "parity"
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


def outputs_in(path: Path) -> list[str]:
    """Return the names of the outputs in a file, none in one of another kind."""
    with safe_open(path, "pt") as file:
        names = file.keys() if "config" in (file.metadata() or {}) else []
        return [name.removeprefix("out.") for name in names if name.startswith("out.")]


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
def difference(
    network: Backbone, tensors: dict[str, Tensor], name: str, precision: torch.dtype = torch.float32
) -> float:
    """Return the largest difference of an output to the reference's, by its deviation; where the network lies."""
    device = next(network.parameters()).device
    tensors = {key: value.to(device) for key, value in tensors.items() if not key.startswith(PREFIX)}
    rows, expected = tensors.get("labels"), tensors[f"out.{name}"]
    if rows is not None:
        assert torch.equal(rows, torch.eye(rows.shape[1], device=device)[rows.argmax(1)]), "labels are one-hot"
    label, classes = (None, 0) if rows is None else (rows.argmax(1), rows.shape[1])
    family = PRECONDITIONINGS[name.split("_")[0]]
    denoiser = Denoiser(network, family, (3, 16, 16), classes, precision=precision)
    if name == "d2o_one_step":
        found = denoiser(80 * tensors["noise"], 80.0, label)
    elif name == "edm_heun18":
        found = sample(lambda x, s: denoiser(x, s, label), tensors["noise"].double(), karras_sigmas(18), heun_step)
    else:
        augmentation = tensors["augment_labels"] if name.endswith("_augment") else None
        found = denoiser(tensors["x"], tensors["sigma"], label, augmentation)
    return float((found - expected).abs().max() / expected.std())
