"""Published text-to-image networks that there are recipes for, by the settings of their configs; weights are random."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from d2o import backbones
from d2o.backbones.text_to_image import TextToImage
from d2o.diffusion.condition import Text
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import from_spec
from d2o.encoders.codec import KINDS
from d2o.kernels.checkpointing import checkpoint_blocks

LEVELS = 4
KL: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * LEVELS,
    "up_block_types": ["UpDecoderBlock2D"] * LEVELS,
    "layers_per_block": 2,
}
DEEP = {
    "block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "qkv_multiscales": [[], [], [], [5], [5], [5]],
}
DC: dict[str, Any] = {
    "latent_channels": 32,
    "attention_head_dim": 32,
    **{f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in DEEP.items()},
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
    "decoder_layers_per_block": [3, 3, 3, 3, 3, 3],
    "downsample_block_type": "Conv",
    "upsample_block_type": "interpolate",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
}


class Codec(NamedTuple):
    """A class of autoencoders of diffusers and its settings."""

    kind: str
    settings: Mapping[str, Any]


STABLE_DIFFUSION = Codec("AutoencoderKL", KL)
SIXTEEN_CHANNELS = Codec("AutoencoderKL", {**KL, "latent_channels": 16})
DEEP_COMPRESSION = Codec("AutoencoderDC", DC)


class Published(NamedTuple):
    """A network of `backbones.text_to_image`: its class, settings, latents [C, H, W], family, and codec."""

    network: str
    settings: Mapping[str, Any]
    latents: tuple[int, int, int]
    family: Mapping[str, Any]
    codec: Codec = STABLE_DIFFUSION


NOISE = {"kind": "epsilon", "schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW = {"kind": "flow", "time_scale": 1000.0, "shift": 3.0}
SD15 = Published("UNet2DConditionModel", {"sample_size": 64, "cross_attention_dim": 768}, (4, 64, 64), NOISE)
SDXL = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
SD3 = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192}
SANA = {"sample_size": 32, "caption_channels": 2304}
FLUX = {"guidance_embeds": True}
PUBLISHED: dict[str, Published] = {  # by the beginning of a recipe's name
    "sd15": SD15,
    "coco256": SD15._replace(latents=(4, 32, 32)),
    "sdxl": Published("UNet2DConditionModel", SDXL, (4, 128, 128), NOISE),
    "sd3": Published("SD3Transformer2DModel", SD3, (16, 128, 128), FLOW, SIXTEEN_CHANNELS),
    "sana": Published("SanaTransformer2DModel", SANA, (32, 32, 32), FLOW, DEEP_COMPRESSION),
    "flux": Published(
        "FluxTransformer2DModel", FLUX, (16, 128, 128), {"kind": "flow", "shift": 3.16}, SIXTEEN_CHANNELS
    ),
}
LENGTHS = {
    "UNet2DConditionModel": 77,
    "PixArtTransformer2DModel": 120,
    "SD3Transformer2DModel": 333,
    "SanaTransformer2DModel": 300,
    "FluxTransformer2DModel": 512,
    "Lumina2Transformer2DModel": 256,
    "QwenImageTransformer2DModel": 512,
    "ZImageTransformer2DModel": 512,
}
"""The tokens of a caption in the stock pipelines, padding included; of Qwen-Image and Z-Image the most by default."""


def make_published(row: Published, device: str = "cpu", precision: str = "float32") -> Denoiser:
    """Return a denoiser of random weights; `precision` is its decoder's."""
    channels, side, _ = row.latents
    sizes = {"resolution": side, "in_channels": channels, "out_channels": channels}
    with torch.device(device):
        network = backbones.build({"kind": "text_to_image", **sizes, "network": row.network, "settings": row.settings})
    codec = RandomAutoencoder(row.codec, device, precision)
    return Denoiser(network, from_spec(dict(row.family)), row.latents, codec=codec).to(device)  # buffers, too


def draw_text(network: TextToImage, count: int, length: int | None = None) -> Text:
    """Return what random captions tell a network, of the length that its stock pipeline gives them or another."""
    length = length or LENGTHS[network.config["network"]]
    tokens = torch.randn(count, length, network.token_width)
    mask = torch.ones(count, length, dtype=torch.long) if network.row.masked else None
    pooled = torch.randn(count, network.pooled_width) if network.pooled_width else None
    return Text(tokens, mask, pooled)


class RandomAutoencoder:
    """An autoencoder with random weights, the same in all copies; it computes on `device` in `precision`."""

    def __init__(self, codec: Codec, device: str = "cpu", precision: str = "float32") -> None:
        try:
            import diffusers
        except ImportError as error:
            raise ValueError("Latent images need diffusers: pip install -e '.[diffusers]' in d2o's folder.") from error
        with torch.device(device):
            network = getattr(diffusers, codec.kind).from_config(dict(codec.settings))
        nn.Module.to(network, getattr(torch, precision))  # diffusers' own warns of each
        self.codec, self.network = codec, network.eval().requires_grad_(False)
        checkpoint_blocks(network.decoder)

    def __deepcopy__(self, _: Any) -> Self:
        return self

    def encode(self, images: Tensor) -> Tensor:
        return KINDS[self.codec.kind].encode(self.network, images.to(self.network.dtype)).detach().float()

    def decode(self, latents: Tensor) -> Tensor:
        return KINDS[self.codec.kind].decode(self.network, latents.to(self.network.dtype)).float()

    def pixel_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        levels = self.network.config[KINDS[self.codec.kind].levels]
        return 3, *(side * 2 ** (len(levels) - 1) for side in latent_shape[1:])  # type: ignore[return-value]
