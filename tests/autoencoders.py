"""Tiny random autoencoders of every kind, as diffusers writes them."""

from pathlib import Path
from typing import Any

import torch

from needs import package

SETTINGS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "block_out_channels": (8, 16), "norm_num_groups": 4, "scaling_factor": 0.3, "shift_factor": 0.7,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
    "AutoencoderDC": {
        "latent_channels": 4, "attention_head_dim": 4, "scaling_factor": 0.4, "downsample_block_type": "Conv",
        "upsample_block_type": "interpolate",
        **{f"{half}_block_types": ("ResBlock", "EfficientViTBlock") for half in ("encoder", "decoder")},
        **{f"{half}_block_out_channels": (8, 16) for half in ("encoder", "decoder")},
        **{f"{half}_layers_per_block": (1, 1) for half in ("encoder", "decoder")},
        **{f"{half}_qkv_multiscales": ((), (5,)) for half in ("encoder", "decoder")},
    },
    "AutoencoderTiny": {
        **{f"{half}_block_out_channels": (8, 8) for half in ("encoder", "decoder")},
        **{f"num_{half}_blocks": (1, 1) for half in ("encoder", "decoder")},
    },
    "AutoencoderKLQwenImage": {
        "base_dim": 4, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True],
        "latents_mean": [0.1, -0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 0.5],
    },
}  # fmt: skip
"""All make latents of 4 channels, half as high and wide as the images."""


def save_autoencoder(kind: str, folder: Path, seed: int = 0) -> str:
    """Save an autoencoder of this class in a folder, and return its path."""
    found = getattr(package("diffusers"), kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found(**SETTINGS[kind]).save_pretrained(folder)
    return str(folder)
