"""Tiny stock pipelines with random weights, whose tokenizers know single letters; saved by diffusers itself."""

import string
from pathlib import Path
from typing import Any

import torch
from torch import nn

from needs import package

diffusers: Any = package("diffusers")
transformers: Any = package("transformers")

SHORT = 12
"""Tokens that CLIP's stand-in reads."""
SIDE = 8
BYTES = [chr(one) for one in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
"""How byte-level tokenizers write bytes; Ġ is a space."""


def clip_tokenizer(first: int = 0) -> Any:
    letters = [*string.ascii_lowercase, *string.digits, ",", "."]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: number for number, word in enumerate(words, first)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=SHORT)


def t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -3.0) for letter in string.ascii_lowercase]
    return transformers.T5Tokenizer(vocab=[*pieces, *letters], extra_ids=0)


def gemma_tokenizer() -> Any:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.printable]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return transformers.GemmaTokenizer(vocab=vocabulary, merges=[])


def qwen_tokenizer() -> Any:
    words = [*BYTES, "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=[], additional_special_tokens=["<|im_start|>", "<|im_end|>"]
    )


def clip(width: int, projected: bool = True) -> Any:
    cls = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    sizes = {"hidden_size": width, "intermediate_size": 16, "projection_dim": width, "max_position_embeddings": SHORT}
    tokens = {"vocab_size": 78, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return cls(transformers.CLIPTextConfig(num_hidden_layers=2, num_attention_heads=2, **sizes, **tokens))


def t5(width: int) -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=30, d_model=width, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    )


def decoder(name: str, width: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**sizes, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 300, **more}


def gemma(width: int) -> Any:
    return transformers.Gemma2Model(transformers.Gemma2Config(**decoder("gemma2", width)))


def qwen(width: int) -> Any:
    return transformers.Qwen3Model(transformers.Qwen3Config(**decoder("qwen3", width)))


def qwen_vl(width: int) -> Any:
    text = decoder("qwen2_5_vl", width)
    text.pop("head_dim")
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": width}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": rope, "rope_scaling": rope}, vision_config=vision
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def kl(channels: int) -> Any:
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    shift = 0.1 if channels == 16 else None
    return diffusers.AutoencoderKL(
        block_out_channels=[8, 8], latent_channels=channels, norm_num_groups=4, shift_factor=shift, **blocks
    )


UNET = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "sample_size": SIDE,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 48 + 16,
    "use_linear_projection": True,
}
DDIM = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


def stable_diffusion() -> Any:
    unchecked = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return diffusers.StableDiffusionPipeline(
        vae=kl(4),
        unet=diffusers.UNet2DConditionModel(**UNET),
        scheduler=diffusers.DDIMScheduler(**DDIM),
        tokenizer=clip_tokenizer(),
        text_encoder=clip(32, projected=False),
        **unchecked,
    )


def sdxl(zeros: bool = True) -> Any:
    return diffusers.StableDiffusionXLPipeline(
        vae=kl(4),
        unet=diffusers.UNet2DConditionModel(**UNET, **SDXL),
        scheduler=diffusers.DDIMScheduler(**DDIM),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        text_encoder=clip(16, projected=False),
        text_encoder_2=clip(16),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def pixart(sigma: bool = False) -> Any:
    cls = diffusers.PixArtSigmaPipeline if sigma else diffusers.PixArtAlphaPipeline
    sizes = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 3, "cross_attention_dim": 24}
    network = diffusers.PixArtTransformer2DModel(sample_size=SIDE, caption_channels=32, **sizes)
    scheduler = diffusers.DDIMScheduler(**DDIM)
    return cls(vae=kl(4), transformer=network, scheduler=scheduler, tokenizer=t5_tokenizer(), text_encoder=t5(32))


def flow_match(shift: float = 3.0) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)


def sd3(with_t5: bool = True) -> Any:
    sizes = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32}
    network = diffusers.SD3Transformer2DModel(
        sample_size=SIDE, patch_size=1, joint_attention_dim=40, pooled_projection_dim=32, pos_embed_max_size=8, **sizes
    )
    return diffusers.StableDiffusion3Pipeline(
        vae=kl(16),
        transformer=network,
        scheduler=flow_match(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer() if with_t5 else None,
        text_encoder=clip(16),
        text_encoder_2=clip(16),
        text_encoder_3=t5(40) if with_t5 else None,
    )


def flux() -> Any:
    sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    network = diffusers.FluxTransformer2DModel(
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), **sizes
    )
    return diffusers.FluxPipeline(
        vae=kl(16),
        transformer=network,
        scheduler=flow_match(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        text_encoder=clip(16, projected=False),
        text_encoder_2=t5(32),
    )


def sana() -> Any:
    heads = {"num_attention_heads": 2, "attention_head_dim": 4, "num_cross_attention_heads": 2}
    network = diffusers.SanaTransformer2DModel(
        patch_size=1, num_layers=1, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8, **heads
    )
    return diffusers.SanaPipeline(gemma_tokenizer(), gemma(8), None, network, flow_match())  # pyright: ignore


def lumina2() -> Any:
    rope = {"axes_dim_rope": (4, 2, 2), "axes_lens": (600, 64, 64)}
    heads = {"num_attention_heads": 3, "num_kv_heads": 1, "num_refiner_layers": 1}
    network = diffusers.Lumina2Transformer2DModel(
        sample_size=SIDE, in_channels=4, hidden_size=24, num_layers=1, multiple_of=2, cap_feat_dim=8, **rope, **heads
    )
    return diffusers.Lumina2Pipeline(network, flow_match(), kl(4), gemma(8), gemma_tokenizer())


def qwen_image() -> Any:
    sizes = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 16}
    network = diffusers.QwenImageTransformer2DModel(in_channels=16, out_channels=4, axes_dims_rope=(8, 4, 4), **sizes)
    return diffusers.QwenImagePipeline(flow_match(1.0), None, qwen_vl(16), qwen_tokenizer(), network)  # pyright: ignore


def z_image() -> Any:
    sizes = {"dim": 32, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 16}
    network = diffusers.ZImageTransformer2DModel(axes_dims=[8, 4, 4], axes_lens=[256, 32, 32], **sizes)
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = QWEN_CHAT
    return diffusers.ZImagePipeline(flow_match(), kl(16), qwen(16), tokenizer, network)


QWEN_CHAT = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
"""What is used of the published template of Qwen's models."""
PIPELINES = {
    "StableDiffusionPipeline": stable_diffusion,
    "StableDiffusionXLPipeline": sdxl,
    "PixArtAlphaPipeline": pixart,
    "PixArtSigmaPipeline": lambda: pixart(sigma=True),
    "StableDiffusion3Pipeline": sd3,
    "FluxPipeline": flux,
    "SanaPipeline": sana,
    "Lumina2Pipeline": lumina2,
    "QwenImagePipeline": qwen_image,
    "ZImagePipeline": z_image,
}


def save_pipeline(folder: Path, make: Any, seed: int = 0) -> Any:
    """Save a pipeline of random weights, none of them zero, and return it."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = make()
        for module in (part for part in pipeline.components.values() if isinstance(part, nn.Module)):
            for parameter in module.eval().parameters():
                if not parameter.detach().abs().max() > 0:
                    nn.init.normal_(parameter, std=0.1)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
