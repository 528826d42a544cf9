"""From pixels to the latent images that some denoisers work on, and back with gradients: an AutoencoderKL of diffusers.

The decoder is never trained, but a student is judged in pixels, so gradients pass through it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from d2o.files import parse_json, read_bytes
from d2o.records import Real, Whole

CONFIG = 1 << 20  # bytes of a config.json
Width = Annotated[Whole, Field(gt=0, le=4096)]


class Config(BaseModel):
    """What is relied upon of a folder's config.json."""

    kind: Literal["AutoencoderKL"] = Field(alias="_class_name")
    out_channels: Annotated[Whole, Field(gt=0, le=16)]
    block_out_channels: Annotated[list[Width], Field(min_length=1, max_length=8)]
    scaling_factor: Annotated[Real, Field(gt=0)] | None = None
    shift_factor: Real | None = None


FIELDS = ("folder", "scale", "bias", "pixel_range")
"""What a file says of a codec."""


@dataclass(frozen=True)
class Autoencoder:
    """The AutoencoderKL in `folder`, whose latents a denoiser sees as `scale * latent + bias`, a number each channel.

    Without a scale it is the folder's own. `pixel_range` is what the autoencoder calls black and white. Some files give
    these numbers without a folder: until `attach` names one, latents are passed on as they are. `precision` is the
    decoder's. The gradient of one 256x256 image through Stable Diffusion's decoder keeps 1.4 GiB; with `checkpointing`
    0.2 GiB, at most 0.7 more at a time, and the decoder runs twice (benchmarks/decoder_memory.py); bfloat16 halves
    both. The network is opened at its first use, once for all copies of this record.
    """

    folder: str | None = None
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    precision: str = "float32"
    checkpointing: bool = True

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return the mean latents [N, c, h, w] of images [N, C, H, W] in [-1, 1]."""
        if self.folder is None:
            return images
        low, high = self.pixel_range
        found = open_network(self.folder).to(images.device).encode(low + (images + 1) / 2 * (high - low)).latent_dist
        scale, bias = self._affine(self.folder, images.device)
        return scale * found.mode() + bias

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [N, C, H, W] in about [-1, 1] for latents [N, c, h, w]; gradients reach the latents."""
        if self.folder is None:
            return latents
        low, high = self.pixel_range
        scale, bias = self._affine(self.folder, latents.device)
        network = open_network(self.folder, self.precision).to(latents.device)
        (network.enable_gradient_checkpointing if self.checkpointing else network.disable_gradient_checkpointing)()
        images = network.decode(((latents - bias) / scale).to(network.dtype)).sample
        return (images.float() - low) / (high - low) * 2 - 1

    def pixel_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of the images of latents of this shape."""
        if self.folder is None:
            return latent_shape
        config = read_config(self.folder)
        times = 2 ** (len(config["block_out_channels"]) - 1)
        return config["out_channels"], latent_shape[1] * times, latent_shape[2] * times

    def to_spec(self) -> dict[str, Any]:
        """Return the JSON form: which codec it is, not how it computes."""
        return json.loads(json.dumps({name: getattr(self, name) for name in FIELDS}))

    def _affine(self, folder: str, device: torch.device) -> Iterator[Tensor]:
        """Return scale and bias [1,c,1,1], by default the folder's own."""
        config = read_config(folder)
        factor, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
        rows = self.scale or (factor,), self.bias or (0.0 if self.scale else -factor * shift,)
        return (torch.tensor(row, device=device).view(1, -1, 1, 1) for row in rows)


def attach(denoiser: Any, folder: str | Path) -> Any:
    """Return a denoiser whose latents are those of the autoencoder in `folder`; how they are scaled stays."""
    read_config(str(folder))  # what is wrong with it is said at once
    known = denoiser.codec if isinstance(denoiser.codec, Autoencoder) else Autoencoder()
    return denoiser.replace(codec=replace(known, folder=str(folder)))


def makes_latents(denoiser: Any) -> bool:
    return denoiser.codec is not None or denoiser.image_shape[0] not in (1, 3)


def check_pixels(denoiser: Any) -> None:
    """Raise a ValueError for a model of latent images that has no codec to show them in pixels."""
    codec, channels = denoiser.codec, denoiser.image_shape[0]
    if (codec is None and channels not in (1, 3)) or (isinstance(codec, Autoencoder) and codec.folder is None):
        raise ValueError(
            f"This model makes latent images of {channels} channels: name the folder of its autoencoder "
            "(AutoencoderKL of diffusers) with --codec FOLDER."
        )


@lru_cache(maxsize=8)
def read_config(folder: str) -> dict[str, Any]:
    """Return the configuration of the AutoencoderKL in a folder, without opening its weights."""
    file = Path(folder) / "config.json"
    try:
        config = parse_json(read_bytes(file, CONFIG))
        Config.model_validate(config)
    except OSError as error:
        raise ValueError(f"There is no autoencoder at {folder} ({error}): name its folder with --codec.") from error
    except ValueError as error:
        raise ValueError(
            f"{file} does not describe an AutoencoderKL of diffusers of a usual size: name another --codec."
        ) from error
    return config


@lru_cache(maxsize=2)
def open_network(folder: str, precision: str = "float32") -> Any:
    """Return the frozen AutoencoderKL in a folder; nothing is downloaded."""
    read_config(folder)
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise ValueError("Latent images need diffusers: pip install -e '.[diffusers]' in d2o's folder.") from error
    try:
        network = AutoencoderKL.from_pretrained(folder, local_files_only=True, torch_dtype=getattr(torch, precision))
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"The autoencoder in {folder} cannot be opened: {str(error).splitlines()[0]}") from error
    return network.eval().requires_grad_(False)
