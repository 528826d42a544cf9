"""EDM's and D2O's networks: from the arguments and tensors that a file records to a denoiser.

The classes' defaults are not recorded; those of our backbones are the same.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from d2o.checkpoints import native
from d2o.diffusion import families as preconditioning
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, VE, VP, Boundary, Epsilon, Preconditioning
from d2o.errors import UnsupportedCheckpointError

BACKBONES = {"SongUNet": "song_unet", "DhariwalUNet": "dhariwal_unet"}
COMMON = {
    "augment_dim": "augmentation_dim",
    "model_channels": "channels",
    "channel_mult": "channel_multipliers",
    "channel_mult_emb": "embedding_multiplier",
    "num_blocks": "num_blocks",
    "attn_resolutions": "attention_resolutions",
    "dropout": "dropout",
    "label_dropout": "label_dropout",
}
OPTIONS = {
    "SongUNet": COMMON
    | {
        "embedding_type": "embedding",
        "channel_mult_noise": "noise_embedding_multiplier",
        "encoder_type": "encoder",
        "decoder_type": "decoder",
        "resample_filter": "resample_filter",
    },
    "DhariwalUNet": COMMON,
}
"""What the file calls an argument of a network, and what our backbone calls it."""
OUTER = ("img_resolution", "img_channels", "label_dim", "use_fp16", "model_type")
"""Arguments that every class takes beside the network's and its own numbers. fp16 was a matter of the authors' GPUs."""
LAST = re.compile(r"^backbone\.(out_conv|dec\.\w+_aux_conv)\.")
"""The layers that put out an image."""

Numbers = dict[str, float]


@dataclass(frozen=True)
class Family:
    """A class of the files: its network by default, its own numbers with their defaults, and what it computes."""

    network: str
    numbers: Numbers
    preconditioning: Callable[[Numbers], Preconditioning]
    outputs: int = 1
    """How many times the image's channels its network puts out; the first are used."""


def iddpm(numbers: Numbers) -> Preconditioning:
    """Return iDDPM's preconditioning: a discrete squared cosine."""
    if (numbers["C_1"], numbers["C_2"]) != (0.001, 0.008):
        raise ValueError("its noise schedule has other constants than iDDPM's")
    return Epsilon("squaredcos_cap_v2", steps=int(numbers["M"]), nearest="difference")


RANGE = {"sigma_min": 0.0, "sigma_max": float("inf")}
FAMILIES = {
    "EDMPrecond": Family("DhariwalUNet", RANGE | {"sigma_data": 0.5}, lambda n: EDM(n["sigma_data"])),
    "D2OPrecond": Family(
        "DhariwalUNet", RANGE | {"sigma_data": 0.5, "eps": 0.002}, lambda n: Boundary(n["sigma_data"], n["eps"])
    ),
    "VPPrecond": Family(
        "SongUNet",
        {"beta_d": 19.9, "beta_min": 0.1, "M": 1000.0, "epsilon_t": 1e-5},
        lambda n: VP(n["beta_d"], n["beta_min"], n["M"] - 1),
    ),
    "VEPrecond": Family("SongUNet", {"sigma_min": 0.02, "sigma_max": 100.0}, lambda _: VE()),
    "iDDPMPrecond": Family("DhariwalUNet", {"C_1": 0.001, "C_2": 0.008, "M": 1000.0}, iddpm, outputs=2),
}


def denoiser(
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
    try:
        spec = describe(class_name, settings, attributes) | {"provenance": provenance}
    except (ValueError, OverflowError) as error:
        reason = str(error)[: native.LONGEST]
        raise UnsupportedCheckpointError(f"{path} cannot be used: {reason.rstrip('.')}.") from error
    made = native.build(path, spec)
    native.fill(path, made, tensors(state, FAMILIES[class_name].outputs, spec))
    return made.eval()


def describe(class_name: str, settings: Mapping[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description, as in our own files, of what a class makes of its settings; ValueError for wrong ones."""
    if class_name not in FAMILIES:
        raise ValueError(f"class {class_name} is not a diffusion network that d2o knows ({', '.join(FAMILIES)})")
    family = FAMILIES[class_name]
    network = settings.get("model_type", family.network)
    if not isinstance(network, str) or network not in BACKBONES:
        raise ValueError(f"its model_type {str(network)[:60]!r} is none of {', '.join(BACKBONES)}")
    for name in settings:
        if name not in OUTER and name not in family.numbers and name not in OPTIONS[network]:
            known = ", ".join([*OUTER, *family.numbers, *OPTIONS[network]])
            raise ValueError(
                f"{class_name} has an argument {str(name)[:60]!r} that d2o does not know; it knows {known}"
            )
    for name in ("img_resolution", "img_channels"):
        if type(settings.get(name)) is not int:
            raise ValueError(f"it does not tell its {name} as a whole number")
    options = {ours: settings[theirs] for theirs, ours in OPTIONS[network].items() if theirs in settings}
    channels, size, classes = settings["img_channels"], settings["img_resolution"], settings.get("label_dim", 0)
    sizes = {"resolution": size, "in_channels": channels, "out_channels": channels, "num_classes": classes}
    numbers = {name: number(name, default, attributes, settings) for name, default in family.numbers.items()}
    return {
        "backbone": {"kind": BACKBONES[network], **options, **sizes},
        "preconditioning": preconditioning.to_spec(family.preconditioning(numbers)),
        "image_shape": [channels, size, size],
        "num_classes": classes,
    }


def number(name: str, default: float, attributes: Mapping[str, Any], settings: Mapping[str, Any]) -> float:
    """Return a number of a class: the object's own, else what it was made with, else the class's default."""
    value = attributes.get(name, settings.get(name, default))
    if type(value) not in (int, float) or not value >= 0:
        raise ValueError(f"its {name} is {str(value)[:60]}, not a positive number")
    return float(value)


def tensors(state: Mapping[str, Tensor], outputs: int, spec: dict[str, Any]) -> dict[str, Tensor]:
    """Return a file's weights under our names, without what our network does not use.

    Left out are the embedding of augmentations where the network has none, and what iDDPM's network predicts beside the
    noise, with its table of noise levels.
    """
    found = {f"backbone.{name.removeprefix('model.')}": t for name, t in state.items() if name.startswith("model.")}
    found |= {name: tensor for name, tensor in state.items() if not name.startswith("model.")}
    if not spec["backbone"].get("augmentation_dim"):
        found.pop("backbone.map_augment.weight", None)
    if outputs > 1:
        found.pop("u", None)
        channels = spec["image_shape"][0]
        for name, tensor in found.items():
            if LAST.search(name) and len(tensor) == outputs * channels:
                found[name] = tensor[:channels].clone()
    return found
