"""EDM2 networks (arXiv 2312.02696): from the constructor arguments and weights that a file records to a denoiser."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2o.checkpoints import native
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import MismatchError, name_file

from .edm import ARGUMENTS, translate_arguments

CLASS = "Precond"
# What only EDM2's files have. All arguments have the same defaults in our backbone, which files leave out.
OWN = ARGUMENTS | {
    "channels_per_head": "head_channels",
    "label_balance": "label_balance",
    "concat_balance": "concat_balance",
    "res_balance": "residual_balance",
    "attn_balance": "attention_balance",
    "clip_act": "clip",
}
OTHERS = ("sigma_data", "resample_filter", "use_fp16", "logvar_channels")
"""The last two are how the authors computed, and the size of a head that only their training needs."""
BOX = [1, 1]
"""The only resampling filter that EDM2's files were trained with."""
UNCERTAINTY = ("logvar_fourier.freqs", "logvar_fourier.phases", "logvar_linear.weight")
"""The head that weighs EDM2's training loss: the only weights that are dropped."""
PIXELS, LATENTS = "StandardRGBEncoder", "StabilityVAEEncoder"


def make(
    settings: Mapping[str, Any],
    state: Mapping[str, Tensor],
    path: Path,
    provenance: Mapping[str, Any],
    encoder: Mapping[str, Any] | None = None,
) -> Denoiser:
    """Return the denoiser that EDM2's class makes of `settings`, with the weights `state`, in eval mode.

    `encoder` are the attributes of the file's image encoder with its "class_name": they tell how latents are scaled.
    """
    with name_file(path):
        spec = describe(settings)
        if latents := describe_latents(encoder, spec["image_shape"][0]):
            provenance = {**provenance, "latents": latents}
    spec |= {"provenance": provenance, "codec": latents}
    tensors = {name: tensor for name, tensor in state.items() if name not in UNCERTAINTY}
    if others := [name for name in tensors if not name.startswith("unet.")]:
        raise MismatchError(f"{path} contains weights that no EDM2 network has: {', '.join(others[:5])}.")
    tensors = {f"backbone.{name.removeprefix('unet.')}": tensor for name, tensor in tensors.items()}
    return native.make(path, spec, tensors)


def describe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description, as in our own files, of what the class makes of these; ValueError for wrong ones."""
    options = translate_arguments(CLASS, settings, OWN, OTHERS)
    if settings.get("resample_filter", BOX) not in (BOX, tuple(BOX)):
        raise ValueError("it resamples with a filter other than (1, 1), which d2o does not support")
    multipliers = options.get("channel_multipliers", (1, 2, 3, 4))
    if isinstance(multipliers, list | tuple) and multipliers and all(type(times) is int for times in multipliers):
        widths = {"noise_embedding_multiplier": multipliers[0], "embedding_multiplier": max(multipliers)}
        options |= {name: width for name, width in widths.items() if options.get(name) is None}
    return native.compose(
        {"kind": "edm2_unet", **options}, {"kind": "edm", "sigma_data": settings.get("sigma_data", 0.5)}
    )


def describe_latents(encoder: Mapping[str, Any] | None, channels: int) -> dict[str, Any] | None:
    """Return how the images of a latent network are made, `scale * latent + bias`; None for networks of pixels.

    The latents are those of a codec, before any factor of its own, that is given pixels within `pixel_range`.
    """
    name = PIXELS if encoder is None else encoder.get("class_name")
    if encoder is None or name == PIXELS:
        return None
    if name != LATENTS:
        raise ValueError(f"it encodes its images by {str(name)[:60]!r}; d2o knows {PIXELS} and {LATENTS}")
    scale, bias = read_numbers(encoder.get("scale")), read_numbers(encoder.get("bias"))
    if not (len(scale) == len(bias) == channels and all(map(math.isfinite, [*scale, *bias])) and all(scale)):
        raise ValueError(f"its image encoder lacks a finite scale and bias for each of {channels} channels")
    vae = encoder.get("vae_name")
    record = {"encoder": name, "scale": scale, "bias": bias, "pixel_range": [0, 1]}
    return record | ({"vae": vae[:200]} if isinstance(vae, str) else {})


def read_numbers(values: Any) -> list[float]:
    try:
        return torch.as_tensor(values, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return []
