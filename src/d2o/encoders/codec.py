"""From pixels to the latent images that some denoisers work on, and back with gradients: autoencoders of diffusers.

A decoder is never trained, but a student may be judged in pixels, so gradients pass through it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from d2o.files import parse_json, read_bytes
from d2o.records import Real, Whole

CONFIG = 1 << 14  # bytes of a config.json


def encode_mean(network: Any, images: Tensor) -> Tensor:
    return network.encode(images).latent_dist.mode()


def decode_images(network: Any, latents: Tensor) -> Tensor:
    return network.decode(latents).sample


class Kind(NamedTuple):
    """A class of autoencoders: its module in diffusers, what its config.json calls things, and how it is called."""

    module: str
    channels: str
    latents: str
    levels: str
    """The list that has an entry for each resolution, each half of the one before."""
    encode: Callable[[Any, Tensor], Tensor] = encode_mean
    decode: Callable[[Any, Tensor], Tensor] = decode_images


KINDS = {
    "AutoencoderKL": Kind("autoencoder_kl", "out_channels", "latent_channels", "block_out_channels"),
    "AutoencoderDC": Kind(
        "autoencoder_dc", "in_channels", "latent_channels", "decoder_block_out_channels",
        encode=lambda network, images: network.encode(images).latent,
    ),
    "AutoencoderTiny": Kind(
        "autoencoder_tiny", "out_channels", "latent_channels", "decoder_block_out_channels",
        encode=lambda network, images: network.encode(images).latents,
    ),
    "AutoencoderKLQwenImage": Kind(  # an image is a video of one frame, decoded without what remembers frames before it
        "autoencoder_kl_qwenimage", "input_channels", "z_dim", "dim_mult",
        encode=lambda network, images: encode_mean(network, images[:, :, None])[:, :, 0],
        decode=lambda network, latents: (
            network.decoder(network.post_quant_conv(latents[:, :, None]))[:, :, 0].clamp(-1, 1)
        ),
    ),
}  # fmt: skip
"""The autoencoders that d2o works with, by the name of their class: nothing that a folder names is imported."""

Channels = Annotated[Whole, Field(gt=0, le=1024)]
Width = Annotated[Whole, Field(gt=0, le=4096)]
Depth = Annotated[Whole, Field(ge=0, le=32)]
DEPTHS = (
    "layers_per_block", "encoder_layers_per_block", "decoder_layers_per_block", "num_encoder_blocks",
    "num_decoder_blocks", "num_res_blocks",
)  # fmt: skip


class Config(BaseModel):
    """What is relied upon of a folder's config.json, under our names for it."""

    kind: str
    channels: Channels = 3
    latents: Channels | None = None
    levels: Annotated[list[Width], Field(min_length=1, max_length=8)]
    depths: list[Depth | Annotated[list[Depth], Field(max_length=8)]]
    upsampling_scaling_factor: Literal[2] = 2
    scaling_factor: Annotated[Real, Field(gt=0)] | None = None
    shift_factor: Real | None = None
    latents_mean: list[Real] | None = None
    latents_std: list[Annotated[Real, Field(gt=0)]] | None = None
    quantization_config: None = None

    @model_validator(mode="after")
    def check_statistics(self) -> Self:
        """Refuse means and deviations of other numbers of channels."""
        counts = {len(row) for row in (self.latents_mean, self.latents_std) if row is not None}
        if not counts <= {self.latents}:
            raise ValueError("a mean and a deviation are wanted for each channel of the latents")
        return self

    @property
    def times(self) -> int:
        """How many pixels high and wide a latent is."""
        return 2 ** (len(self.levels) - 1)


FIELDS = ("folder", "scale", "bias", "pixel_range")
"""What a file says of a codec."""


@dataclass(frozen=True)
class Autoencoder:
    """The autoencoder in `folder`, whose latents a denoiser sees as `scale * latent + bias`, a number each channel.

    Without a scale it is the folder's own, as in the pipelines of diffusers. `pixel_range` is what the autoencoder
    calls black and white. Some files give these numbers without a folder: until `attach` names one, latents are passed
    on as they are. `precision` is the decoder's. The gradient of one 256x256 image through Stable Diffusion's decoder
    would keep 1.4 GiB; as its blocks run twice, it keeps 0.4, and at most 0.3 more at a time
    (benchmarks/decoder_memory.py); bfloat16 halves both. The network is opened at its first use, once for all copies of
    this record.
    """

    folder: str | None = None
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    precision: str = "float32"

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return the mean latents [N, c, h, w] of images [N, C, H, W] in [-1, 1]."""
        if self.folder is None:
            return images
        low, high = self.pixel_range
        scale, bias = self.affine(images.device)
        network = open_network(self.folder).to(images.device)
        encode = KINDS[type(network).__name__].encode
        return scale * encode(network, low + (images + 1) / 2 * (high - low)) + bias

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [N, C, H, W] in about [-1, 1] for latents [N, c, h, w]; gradients reach the latents."""
        if self.folder is None:
            return latents
        low, high = self.pixel_range
        scale, bias = self.affine(latents.device)
        network = open_network(self.folder, self.precision).to(latents.device)
        kind = KINDS[type(network).__name__]
        images = kind.decode(network, ((latents - bias) / scale).to(network.dtype))
        return (images.float() - low) / (high - low) * 2 - 1

    def pixel_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of the images of latents of this shape."""
        if self.folder is None:
            return latent_shape
        config = read_config(self.folder)
        return config.channels, latent_shape[1] * config.times, latent_shape[2] * config.times

    def to_spec(self) -> dict[str, Any]:
        """Return the JSON form: which codec it is, not how it computes."""
        return json.loads(json.dumps({name: getattr(self, name) for name in FIELDS}))

    def affine(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return scale and bias [1,c,1,1], or [1,1,1,1] for all channels; by default the folder's own."""
        scale, bias = self.scale or (1.0,), self.bias or (0.0,)
        if self.folder is not None and not self.scale:
            scale, bias = read_scale(self.folder)
        tensors = (torch.tensor(row, device=device).view(1, -1, 1, 1) for row in (scale, bias))
        return next(tensors), next(tensors)


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
            f"({', '.join(KINDS)} of diffusers) with --codec FOLDER."
        )


def decode_through(denoiser: Any, folder: str) -> Autoencoder:
    """Return the autoencoder in `folder`, such as a tiny one, as a decoder of the latents that a denoiser works on.

    As in diffusers' pipelines it takes the place of the denoiser's own, whose latents it is handed in the pipelines'
    scale. Raises ValueError for a denoiser that has no latents, or others.
    """
    if not makes_latents(denoiser):
        raise ValueError(f"The decoder {folder} is for latent images, but this model makes pixels: leave it out.")
    channels, found = denoiser.image_shape[0], read_config(folder).latents
    if found not in (None, channels):
        raise ValueError(
            f"The decoder {folder} takes latents of {found} channels, but this model's have {channels}: name the tiny "
            "autoencoder of its family."
        )
    check_pixels(denoiser)
    own = denoiser.codec if isinstance(denoiser.codec, Autoencoder) else Autoencoder()
    tiny = replace(own, folder=folder, scale=(), bias=())
    open_network(folder, tiny.precision)
    if not own.scale:
        return tiny
    (scale, bias), (stock, stock_bias), (times, shift) = own.affine(), Autoencoder(own.folder).affine(), tiny.affine()
    scale, bias = scale * times / stock, scale * (shift - stock_bias) / stock + bias
    return replace(tiny, scale=tuple(scale.flatten().tolist()), bias=tuple(bias.flatten().tolist()))


@lru_cache(maxsize=8)
def read_config(folder: str, option: str = "--codec FOLDER") -> Config:
    """Return what the config.json of an autoencoder's folder says, without opening its weights.

    An error says that another folder is named by this `option`.
    """
    file = Path(folder) / "config.json"
    try:
        found = parse_json(read_bytes(file, CONFIG))
        kind = found.get("_class_name") if isinstance(found, dict) else None
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError("its class is no row of KINDS")
        row = KINDS[kind]
        ours = {"kind": "_class_name", "channels": row.channels, "latents": row.latents, "levels": row.levels}
        given = {name: found[name] for name in Config.model_fields if name in found}
        given |= {name: found[key] for name, key in ours.items() if key in found}
        return Config.model_validate(given | {"depths": [found[name] for name in DEPTHS if name in found]})
    except OSError as error:
        raise ValueError(f"There is no autoencoder at {folder} ({error}): name its folder with {option}.") from error
    except ValueError as error:
        raise ValueError(
            f"{file} does not describe an autoencoder that d2o reads ({', '.join(KINDS)} of diffusers, of a usual "
            f"size): name another with {option}."
        ) from error


@lru_cache(maxsize=4)
def open_network(folder: str, precision: str = "float32") -> Any:
    """Return the frozen autoencoder in a folder; nothing is downloaded, and only safetensors are read."""
    from d2o.kernels.checkpointing import checkpoint_blocks

    kind = read_config(folder).kind
    try:
        found = getattr(import_module(f"diffusers.models.autoencoders.{KINDS[kind].module}"), kind)
    except ImportError as error:
        raise ValueError("Latent images need diffusers: pip install -e '.[diffusers]' in d2o's folder.") from error
    how = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:
        network, report = found.from_pretrained(folder, torch_dtype=getattr(torch, precision), **how)
        if report["missing_keys"]:
            raise ValueError(f"its weights lack {min(report['missing_keys'])}")
    except Exception as error:  # those of what a config asks for are of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        raise ValueError(f"The autoencoder in {folder} cannot be opened: {reason}") from error
    checkpoint_blocks(network.decoder)
    return network.eval().requires_grad_(False)


def read_scale(folder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the scale and bias with which diffusers' pipelines hand latents on, each of one or all channels.

    They are those of the opened network, whose class has defaults for what its config.json leaves out.
    """
    config = open_network(folder).config
    factor, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
    mean, deviation = (config.get(name) for name in ("latents_mean", "latents_std"))
    if not (mean and deviation):
        return (factor,), (-factor * shift,)
    scale = tuple(factor / each for each in deviation)
    return scale, tuple(-times * each for times, each in zip(scale, mean, strict=True))
