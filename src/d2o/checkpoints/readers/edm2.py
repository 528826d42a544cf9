"""EDM2 networks (arXiv 2312.02696): from the constructor arguments and weights that a file holds to a denoiser."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2o.checkpoints import native
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM
from d2o.errors import MismatchError, UnsupportedCheckpointError

# What the file calls an argument and what our backbone calls it. Both have the same defaults, which files leave out.
ARGUMENTS: dict[str, str] = {
    "img_resolution": "resolution",
    "img_channels": "in_channels",
    "label_dim": "num_classes",
    "model_channels": "channels",
    "channel_mult": "channel_multipliers",
    "channel_mult_noise": "noise_embedding_multiplier",
    "channel_mult_emb": "embedding_multiplier",
    "num_blocks": "num_blocks",
    "attn_resolutions": "attention_resolutions",
    "channels_per_head": "head_channels",
    "dropout": "dropout",
    "label_balance": "label_balance",
    "concat_balance": "concat_balance",
    "res_balance": "residual_balance",
    "attn_balance": "attention_balance",
    "clip_act": "clip",
}
NEEDED = ("img_resolution", "img_channels", "label_dim")
IGNORED = ("use_fp16", "logvar_channels")
"""How the file's authors computed, and the size of a head that only their training needs."""
BOX = [1, 1]
"""The only resampling filter that EDM2's files were trained with."""
UNCERTAINTY = ("logvar_fourier.freqs", "logvar_fourier.phases", "logvar_linear.weight")
"""The head that weighs EDM2's training loss: the only weights that are dropped."""
ENCODERS = ("StandardRGBEncoder", "StabilityVAEEncoder")


def denoiser(kwargs: Mapping[str, Any], state: Mapping[str, Tensor], path: Path, extras: Mapping[str, Any]) -> Denoiser:
    """Return the denoiser that EDM2's class Precond makes of `kwargs`, with the weights `state`, in eval mode.

    `extras` may hold "provenance", a JSON-able record, and "encoder", the attributes of the file's image encoder with
    its "class_name": the scale and bias of latents go to the denoiser's provenance.
    """
    spec = describe(kwargs, path, extras)
    strangers = [name for name in state if not name.startswith("unet.") and name not in UNCERTAINTY]
    if strangers:
        raise MismatchError(f"{path} holds weights that no EDM2 network has: {', '.join(strangers[:5])}.")
    made = native.build(path, spec)
    tensors = {f"backbone.{name[5:]}": tensor for name, tensor in state.items() if name not in UNCERTAINTY}
    native.fill(path, made, tensors)
    return made.eval()


def describe(kwargs: Mapping[str, Any], path: Path, extras: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description, as in our own files, of the denoiser that EDM2's class Precond makes of `kwargs`."""
    options = backbone_options(kwargs, path)
    size, channels = options["resolution"], options["in_channels"]
    provenance = dict(extras.get("provenance", {}))
    if latents := latents_of(extras.get("encoder"), channels, path):
        provenance["latents"] = latents
    return {
        "backbone": {"kind": "edm2_unet", **options, "out_channels": channels},
        "preconditioning": {"kind": EDM.kind, "sigma_data": kwargs.get("sigma_data", 0.5)},
        "image_shape": [channels, size, size],
        "num_classes": options["num_classes"],
        "provenance": provenance,
    }


def backbone_options(kwargs: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return our backbone's options for EDM2's; an unknown one is an error, for it could change what is computed."""
    for name in kwargs:
        if name not in ARGUMENTS and name not in IGNORED and name not in ("sigma_data", "resample_filter"):
            raise UnsupportedCheckpointError(
                f"{path} builds its network with the argument {str(name)[:60]!r}, which d2o does not know of EDM2; it "
                f"knows {', '.join(ARGUMENTS)}."
            )
    for name in NEEDED:
        if name not in kwargs:
            raise UnsupportedCheckpointError(f"{path} does not say the {name} of its EDM2 network.")
    if kwargs.get("resample_filter", BOX) not in (BOX, tuple(BOX)):
        raise UnsupportedCheckpointError(f"{path} resamples with another filter than (1, 1), which d2o does not do.")
    options = {ours: kwargs[theirs] for theirs, ours in ARGUMENTS.items() if theirs in kwargs}
    multipliers = options.get("channel_multipliers", (1, 2, 3, 4))
    if isinstance(multipliers, list | tuple) and multipliers and all(type(times) is int for times in multipliers):
        for name, default in (
            ("noise_embedding_multiplier", multipliers[0]),
            ("embedding_multiplier", max(multipliers)),
        ):
            options[name] = default if options.get(name) is None else options[name]
    return options


def latents_of(encoder: Mapping[str, Any] | None, channels: int, path: Path) -> dict[str, Any] | None:
    """Return how the images of a latent network are made, `scale * latent + bias`; None for networks of pixels.

    The latents are those of a codec, before any factor of its own, that is given pixels within `pixel_range`.
    """
    if encoder is None or encoder.get("class_name") == "StandardRGBEncoder":
        return None
    if encoder.get("class_name") not in ENCODERS:
        raise UnsupportedCheckpointError(
            f"{path} encodes its images by {str(encoder.get('class_name'))[:60]!r}; d2o knows {' and '.join(ENCODERS)}."
        )
    scale, bias = numbers(encoder.get("scale")), numbers(encoder.get("bias"))
    finite = all(math.isfinite(value) for value in [*scale, *bias]) and all(scale)
    if not (finite and len(scale) == len(bias) == channels):
        raise UnsupportedCheckpointError(
            f"{path} holds an image encoder without a finite scale and bias for each of {channels} channels."
        )
    vae = encoder.get("vae_name")
    record = {"encoder": encoder["class_name"], "scale": scale, "bias": bias, "pixel_range": [0, 1]}
    return record | ({"vae": vae[:200]} if isinstance(vae, str) else {})


def numbers(values: Any) -> list[float]:
    """Return the numbers of an array, tensor or list as floats; nothing for anything else."""
    try:
        return torch.as_tensor(values, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return []
