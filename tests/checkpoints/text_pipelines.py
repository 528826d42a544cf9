"""Tiny random text-to-image pipelines of diffusers, saved as folders, and what stock makes of given noise and text."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2o.backbones.text_to_image import fold, unfold
from d2o.diffusion import Text
from stock_pipelines import DDIM, SDXL, SIDE, UNET, diffusers

N, LENGTH = 2, 7
SD_PARTS = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def flow(**settings: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **settings})


def make_sd(prediction: str) -> Any:
    scheduler = diffusers.DDIMScheduler(**DDIM, prediction_type=prediction)
    parts = {"unet": diffusers.UNet2DConditionModel(**UNET), "scheduler": scheduler}
    return diffusers.StableDiffusionPipeline(vae=None, text_encoder=None, tokenizer=None, **parts, **SD_PARTS)


def make(pipeline: str, scheduler: Any, encoders: int, **network: Any) -> Any:
    """Return a pipeline of one network, {name: network}, without anything else."""
    missing = [f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")[:encoders]]
    return getattr(diffusers, pipeline)(vae=None, scheduler=scheduler, **network, **dict.fromkeys(missing))


@dataclass(frozen=True)
class Case:
    """A pipeline: how it is made, widths of tokens and of pooled text, what it is called with, and how well it fits.

    `error` is the largest difference that is rounding, of one step and of four; `guided` of four with guidance. One
    step of Lumina 2 is the same to the bit on some processors only.
    `more` is what Z-Image's guidance lacks to what others call so.
    """

    make: Callable[[], Any]
    width: int
    pooled: int = 0
    masked: bool = False
    call: dict[str, Any] | None = None
    error: tuple[float, float] = (0.0, 3e-6)
    guided: float = 1e-5
    channels: int = 4
    fold: int = 1
    more: float = 0.0


CASES = {
    "SD 1.5": Case(lambda: make_sd("epsilon"), 32, error=(1e-4, 1e-4), guided=2e-4),
    "SD 2.1": Case(lambda: make_sd("v_prediction"), 32, error=(3e-6, 3e-6)),
    "SDXL": Case(
        lambda: make(
            *("StableDiffusionXLPipeline", diffusers.DDIMScheduler(**DDIM), 2),
            unet=diffusers.UNet2DConditionModel(**UNET | SDXL | {"transformer_layers_per_block": (1, 2)}),
        ),
        *(32, 16),
        error=(1e-4, 1e-4),
        guided=2e-4,
    ),
    "PixArt": Case(
        lambda: make(
            *("PixArtAlphaPipeline", diffusers.DDIMScheduler(**DDIM), 1),
            transformer=diffusers.PixArtTransformer2DModel(
                *(3, 8, 4, 8, 2), cross_attention_dim=24, sample_size=SIDE, caption_channels=32
            ),
        ),
        32,
        masked=True,
        call={"use_resolution_binning": False},
        error=(1e-4, 1e-4),
        guided=2e-4,
    ),
    "SD3": Case(
        lambda: make(
            *("StableDiffusion3Pipeline", flow(), 3),
            transformer=diffusers.SD3Transformer2DModel(
                *(SIDE, 1, 16, 2, 8, 4, 32, 32, 64, 16), dual_attention_layers=(0,), qk_norm="rms_norm"
            ),
        ),
        *(32, 64),
        channels=16,
    ),
    "Flux": Case(
        lambda: make(
            *("FluxPipeline", flow(use_dynamic_shifting=True), 2),
            transformer=diffusers.FluxTransformer2DModel(
                in_channels=64,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=32,
                axes_dims_rope=(4, 4, 8),
                guidance_embeds=True,
            ),
        ),
        *(32, 32),
        channels=16,
        fold=2,
    ),
    "Sana": Case(
        lambda: make(
            *("SanaPipeline", flow(), 1),
            transformer=diffusers.SanaTransformer2DModel(
                *(4, 4, 2, 4, 1, 2, 4, 8, 8), sample_size=SIDE, timestep_scale=0.5
            ),
        ),
        8,
        masked=True,
        call={"use_resolution_binning": False, "complex_human_instruction": None},
    ),
    "Lumina 2": Case(
        lambda: make(
            *("Lumina2Pipeline", flow(), 1),
            transformer=diffusers.Lumina2Transformer2DModel(
                sample_size=SIDE,
                in_channels=4,
                hidden_size=24,
                num_layers=2,
                num_refiner_layers=1,
                num_attention_heads=3,
                num_kv_heads=1,
                multiple_of=2,
                axes_dim_rope=(4, 2, 2),
                axes_lens=(128, 128, 128),
                cap_feat_dim=8,
            ),
        ),
        8,
        masked=True,
        error=(3e-6, 3e-6),
    ),
    "Qwen-Image": Case(
        lambda: make(
            *("QwenImagePipeline", flow(shift=1.0, use_dynamic_shifting=True), 1),
            transformer=diffusers.QwenImageTransformer2DModel(
                in_channels=16,
                out_channels=4,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                joint_attention_dim=16,
                axes_dims_rope=(8, 4, 4),
            ),
        ),
        16,
        masked=True,
        fold=2,
    ),
    "Z-Image": Case(
        lambda: make(
            *("ZImagePipeline", flow(), 1),
            transformer=diffusers.ZImageTransformer2DModel(
                dim=32,
                n_layers=2,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=16,
                axes_dims=[8, 4, 4],
                axes_lens=[256, 32, 32],
            ),
        ),
        16,
        masked=True,
        channels=16,
        error=(3e-6, 3e-6),
        more=1.0,
    ),
}


def save(name: str, folder: Path) -> None:
    """Write a pipeline whose weights are all random: layers that begin as zero would hide what they are told."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = CASES[name].make()
        network = network_of(pipeline)
        for parameter in network.parameters():
            if not parameter.detach().abs().max():
                nn.init.normal_(parameter, std=0.1)
        pipeline.save_pretrained(folder)


def network_of(pipeline: Any) -> Any:
    return pipeline.transformer if "transformer" in pipeline.components else pipeline.unet


def open_stock(name: str, folder: Path) -> Any:
    kind = type(CASES[name].make())
    parts = diffusers.DiffusionPipeline.load_config(folder)
    missing = {part: None for part, row in parts.items() if isinstance(row, list) and row[0] is None}
    pipeline = kind.from_pretrained(folder, **missing)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_text(name: str, seed: int) -> Text:
    case, generator = CASES[name], torch.Generator().manual_seed(seed)
    mask = (torch.arange(LENGTH) < torch.tensor([[LENGTH - 3], [LENGTH - 1]])).long() if case.masked else None
    tokens = torch.randn(N, LENGTH, case.width, generator=generator)
    return Text(tokens, mask, torch.randn(N, case.pooled, generator=generator) if case.pooled else None)


def make_noise(name: str, side: int = SIDE) -> Tensor:
    return torch.randn(N, CASES[name].channels, side, side, generator=torch.Generator().manual_seed(7))


def run_stock(name: str, pipeline: Any, noise: Tensor, text: Text, steps: int, negative: Text | None = None) -> Tensor:
    """Return the latents that a stock pipeline makes in so many steps; with a `negative` text, by guidance of 4."""
    case, side = CASES[name], noise.shape[-1] * getattr(pipeline, "vae_scale_factor", 8)
    words = describe(name, text, "") | ({} if negative is None else describe(name, negative, "negative_"))
    scale = 1.0 if negative is None else 4.0
    words |= {"true_cfg_scale" if name in ("Flux", "Qwen-Image") else "guidance_scale": scale}
    if name == "Z-Image" and negative is None:
        words["guidance_scale"] = 0.0
    if name == "Flux":
        words["guidance_scale"] = 3.5
    latents = fold(noise) if case.fold == 2 else noise.clone()
    sizes = {"num_inference_steps": steps, "height": side, "width": side}
    with torch.no_grad():
        made = pipeline(latents=latents, output_type="latent", **sizes, **words, **(case.call or {})).images
    made = made if isinstance(made, Tensor) else torch.stack(list(made))
    return unfold(made.view(N, -1, made.shape[-1]), noise) if case.fold == 2 else made.view(noise.shape)


def describe(name: str, text: Text, prefix: str) -> dict[str, Any]:
    """Return a text as the arguments of its pipeline."""
    if name == "Z-Image":
        assert text.mask is not None
        rows = zip(text.tokens, text.mask.bool(), strict=True)
        return {f"{prefix}prompt_embeds": [tokens[there] for tokens, there in rows]}
    words: dict[str, Any] = {f"{prefix}prompt_embeds": text.tokens}
    if prefix and name in ("PixArt", "Sana"):
        words["negative_prompt"] = None
    if text.pooled is not None:
        words[f"{prefix}pooled_prompt_embeds"] = text.pooled
    if text.mask is not None:
        words[f"{prefix}prompt_embeds_mask" if name == "Qwen-Image" else f"{prefix}prompt_attention_mask"] = text.mask
    return words


@dataclass(frozen=True)
class Telling:
    """A reader that tells one text whatever the caption, and another for none."""

    text: Text
    nothing_told: Text
    examples: tuple[str, ...] = ("a caption",)

    def __call__(self, captions: Any) -> Text:
        return self.text[: len(captions)]

    def nothing(self, count: int) -> Text:
        return self.nothing_told[:count]

    def to_spec(self) -> dict[str, Any]:
        return {}
