"""EDM's and D2O's networks: from the arguments and tensors that a file records to a denoiser.

The classes' defaults are not recorded; those of our backbones are the same.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from d2o.checkpoints import native
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import name_file

BACKBONES = {"SongUNet": "song_unet", "DhariwalUNet": "dhariwal_unet"}
ARGUMENTS = {
    "img_resolution": "resolution",
    "img_channels": "in_channels",
    "label_dim": "num_classes",
    "model_channels": "channels",
    "channel_mult": "channel_multipliers",
    "channel_mult_noise": "noise_embedding_multiplier",
    "channel_mult_emb": "embedding_multiplier",
    "num_blocks": "num_blocks",
    "attn_resolutions": "attention_resolutions",
    "dropout": "dropout",
}
"""What files of EDM and of EDM2 call an argument, and what our backbones call it."""
OWN = ARGUMENTS | {
    "augment_dim": "augmentation_dim",
    "label_dropout": "label_dropout",
    "embedding_type": "embedding",
    "encoder_type": "encoder",
    "decoder_type": "decoder",
    "resample_filter": "resample_filter",
}
OTHERS = ("use_fp16", "model_type")
"""Arguments beside those and a class's own numbers. fp16 was a matter of the authors' GPUs."""
LAST_LAYERS = re.compile(r"^backbone\.(out_conv|dec\.\w+_aux_conv)\.")
"""The layers that put out an image."""

BOUNDARY = "boundary"
"""The family of one-step generators."""
Numbers = dict[str, float]


@dataclass(frozen=True)
class Precond:
    """A class of the files: its network by default, its own numbers with their defaults, and what it computes."""

    network: str
    numbers: Numbers
    preconditioning: Callable[[Numbers], dict[str, Any]]
    outputs: int = 1
    """How many times the image's channels its network puts out; the first are used."""


def describe_iddpm(numbers: Numbers) -> dict[str, Any]:
    if (numbers["C_1"], numbers["C_2"]) != (0.001, 0.008):
        raise ValueError("its noise schedule has other constants than iDDPM's")
    return {"kind": "epsilon", "schedule": "squaredcos_cap_v2", "steps": int(numbers["M"]), "nearest": "difference"}


EDM = {"sigma_min": 0.0, "sigma_max": float("inf"), "sigma_data": 0.5}
D2O = EDM | {"eps": 0.002}
VP = {"beta_d": 19.9, "beta_min": 0.1, "M": 1000.0, "epsilon_t": 1e-5}
VE = {"sigma_min": 0.02, "sigma_max": 100.0}
IDDPM = {"C_1": 0.001, "C_2": 0.008, "M": 1000.0}
CLASSES = {
    "EDMPrecond": Precond("DhariwalUNet", EDM, lambda n: {"kind": "edm", "sigma_data": n["sigma_data"]}),
    "D2OPrecond": Precond(
        "DhariwalUNet", D2O, lambda n: {"kind": BOUNDARY, "sigma_data": n["sigma_data"], "sigma_min": n["eps"]}
    ),
    "VPPrecond": Precond(
        "SongUNet",
        VP,
        lambda n: {"kind": "vp", "beta_range": n["beta_d"], "beta_min": n["beta_min"], "time_scale": n["M"] - 1},
    ),
    "VEPrecond": Precond("SongUNet", VE, lambda _: {"kind": "ve"}),
    "iDDPMPrecond": Precond("DhariwalUNet", IDDPM, describe_iddpm, outputs=2),
}


def make(
    class_name: str,
    settings: Mapping[str, Any],
    attributes: Mapping[str, Any],
    state: Mapping[str, Tensor],
    path: Path,
    provenance: dict[str, Any],
) -> Denoiser:
    """Return the denoiser that one of EDM's classes makes of `settings`, with the weights `state`, in eval mode.

    `attributes` are the recorded object's: they tell the numbers that `settings` leave to defaults.
    """
    with name_file(path):
        spec = describe(class_name, settings, attributes)
    tensors = rename(state, CLASSES[class_name].outputs, spec)
    return native.make(path, spec | {"provenance": provenance}, tensors)


def describe(class_name: str, settings: Mapping[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description, as in our own files, of what a class makes of its settings; ValueError for wrong ones."""
    if class_name not in CLASSES:
        raise ValueError(f"class {class_name} is not a diffusion network that d2o knows ({', '.join(CLASSES)})")
    precond = CLASSES[class_name]
    network = settings.get("model_type", precond.network)
    if not isinstance(network, str) or network not in BACKBONES:
        raise ValueError(f"its model_type {str(network)[:60]!r} is none of {', '.join(BACKBONES)}")
    options = {"num_classes": 0} | translate_arguments(class_name, settings, OWN, (*OTHERS, *precond.numbers))
    numbers = {**precond.numbers, **settings, **attributes}  # the object's own, else the arguments', else defaults
    numbers = {name: read_number(name, numbers[name]) for name in precond.numbers}
    family = precond.preconditioning(numbers)
    return native.compose({"kind": BACKBONES[network], **options}, family, one_step=family["kind"] == BOUNDARY)


def translate_arguments(
    class_name: str, settings: Mapping[str, Any], table: Mapping[str, str], others: Collection[str]
) -> dict[str, Any]:
    """Return our backbone's options; an argument neither there nor in `others` could change what is computed."""
    if unknown := [name for name in settings if name not in table and name not in others]:
        known = ", ".join((*table, *others))
        raise ValueError(f"{class_name} has an unknown argument {str(unknown[0])[:60]!r}; d2o knows {known}")
    options = {ours: settings[theirs] for theirs, ours in table.items() if theirs in settings}
    return options | {"out_channels": options["in_channels"]}


def read_number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not value >= 0:
        raise ValueError(f"its {name} is {str(value)[:60]}, not a positive number")
    return float(value)


def rename(state: Mapping[str, Tensor], outputs: int, spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a file's weights under our names, without what our network does not use.

    Left out are the embedding of augmentations where the network has none, and what iDDPM's network predicts beside the
    noise, with its table of noise levels.
    """
    found = {re.sub(r"^((module|_orig_mod)\.)*model\.", "backbone.", name): tensor for name, tensor in state.items()}
    if not spec["backbone"].get("augmentation_dim"):
        found.pop("backbone.map_augment.weight", None)
    if outputs > 1:
        found.pop("u", None)
        channels = spec["image_shape"][0]
        for name, tensor in found.items():
            if LAST_LAYERS.search(name) and tensor.shape[:1] == (outputs * channels,):
                found[name] = tensor[:channels].clone()
    return found
