"""From pixels to the latent images that some denoisers work on, and back with gradients: an AutoencoderKL of diffusers.

The decoder is never trained, but a student is judged in pixels, so gradients pass through it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Autoencoder:
    """The AutoencoderKL in `folder`, whose latents a denoiser sees as `scale * latent + bias`, a number each channel.

    Without a scale it is the folder's own. `pixel_range` is what the autoencoder calls black and white; `precision` is
    the decoder's. The gradient of one 256x256 image through Stable Diffusion's decoder keeps 1.4 GiB; with
    `checkpointing` 0.2 GiB, at most 0.7 more at a time, and the decoder runs twice (benchmarks/decoder_memory.py).
    bfloat16 halves both. The network is opened at its first use, once for all copies of this record.
    """

    folder: str
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    precision: str = "float32"
    checkpointing: bool = True

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return the mean latents [N, c, h, w] of images [N, C, H, W] in [-1, 1]."""
        low, high = self.pixel_range
        found = opened(self.folder).to(images.device).encode(low + (images + 1) / 2 * (high - low)).latent_dist
        scale, bias = self._affine(images)
        return scale * found.mode() + bias

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [N, C, H, W] in about [-1, 1] for latents [N, c, h, w]; gradients reach the latents."""
        low, high = self.pixel_range
        scale, bias = self._affine(latents)
        network = opened(self.folder, self.precision).to(latents.device)
        (network.enable_gradient_checkpointing if self.checkpointing else network.disable_gradient_checkpointing)()
        images = network.decode(((latents - bias) / scale).to(network.dtype)).sample
        return (images.float() - low) / (high - low) * 2 - 1

    def pixel_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of the images of latents of this shape."""
        config = config_of(self.folder)
        times = 2 ** (len(config["block_out_channels"]) - 1)
        return config["out_channels"], latent_shape[1] * times, latent_shape[2] * times

    def record(self) -> dict[str, Any]:
        """Return the JSON form, for a denoiser's provenance."""
        return json.loads(json.dumps(asdict(self)))

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = config_of(self.folder)
        factor = config.get("scaling_factor") or 1.0
        scale = self.scale or (factor,)
        bias = self.bias or (0.0 if self.scale else -factor * (config.get("shift_factor") or 0.0),)
        return tuple(torch.tensor(row, device=like.device).view(1, -1, 1, 1) for row in (scale, bias))  # type: ignore[return-value]


class Latent(Protocol):
    """A denoiser as far as its codec is concerned."""

    codec: Any
    provenance: dict[str, Any]


def attach(denoiser: Latent, folder: str | Path | None = None) -> None:
    """Give a denoiser the codec in `folder`, or the one that its provenance names; without either it has none.

    Where the provenance tells how its latents are scaled, that is followed.
    """
    record = denoiser.provenance.get("codec") or denoiser.provenance.get("latents") or {}
    if not isinstance(record, Mapping):
        raise ValueError(f"The model's codec is not described as one: {str(record)[:200]}.")
    fields = {name: record[name] for name in ("scale", "bias", "pixel_range", "folder") if name in record}
    if folder is not None:
        config_of(str(folder))  # what is wrong with it is said at once
        fields["folder"] = str(folder)
    if "folder" in fields:
        denoiser.codec = checked(fields)


def checked(fields: Mapping[str, Any]) -> Autoencoder:
    """Return the codec of a JSON record, or raise ValueError for one that is none."""
    rows = [fields.get("scale", ()), fields.get("bias", ()), fields.get("pixel_range", (-1.0, 1.0))]
    lists = all(isinstance(row, list | tuple) and all(type(n) in (int, float) for n in row) for row in rows)
    if not (isinstance(fields["folder"], str) and lists and len(rows[2]) == 2):
        raise ValueError(f"The model's codec is not described as one: {str(dict(fields))[:200]}.")
    scale, bias, (low, high) = rows
    return Autoencoder(fields["folder"], tuple(scale), tuple(bias), (low, high))


def check_pixels(denoiser: Any) -> None:
    """Raise a ValueError for a model of latent images that has no codec to show them in pixels."""
    if denoiser.codec is None and (denoiser.image_shape[0] not in (1, 3) or "latents" in denoiser.provenance):
        raise ValueError(
            f"This model makes latent images of {denoiser.image_shape[0]} channels: name the folder of its autoencoder "
            "(AutoencoderKL of diffusers) with --codec FOLDER."
        )


@lru_cache(maxsize=8)
def config_of(folder: str) -> dict[str, Any]:
    """Return the configuration of the AutoencoderKL in a folder, without opening its weights."""
    file = Path(folder) / "config.json"
    try:
        config = json.loads(file.read_text())
        if config["_class_name"] != "AutoencoderKL" or not config["out_channels"] or not config["block_out_channels"]:
            raise KeyError
    except OSError as error:
        raise ValueError(
            f"There is no autoencoder at {folder} ({file} cannot be read): name it with --codec."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not describe an AutoencoderKL of diffusers.") from error
    return config


@lru_cache(maxsize=2)
def opened(folder: str, precision: str = "float32") -> Any:
    """Return the frozen AutoencoderKL in a folder; nothing is downloaded."""
    config_of(folder)
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise ValueError("Latent images need diffusers: pip install -e '.[diffusers]' in d2o's folder.") from error
    try:
        network = AutoencoderKL.from_pretrained(folder, local_files_only=True, torch_dtype=getattr(torch, precision))
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"The autoencoder in {folder} cannot be opened: {str(error).splitlines()[0]}") from error
    return network.eval().requires_grad_(False)
