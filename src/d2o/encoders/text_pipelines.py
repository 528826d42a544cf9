"""Pipelines of diffusers that read captions: what they consist of, and how they tell their network, a row each."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple


class Part(NamedTuple):
    """A tokenizer and a text encoder: classes of transformers. The encoder is one of several."""

    tokenizer: str
    encoders: tuple[str, ...]


class Slots(NamedTuple):
    """Where the answer of `encode_prompt` has tokens, their mask and the pooled vectors."""

    tokens: int
    mask: int | None = None
    pooled: int | None = None


class Pipeline(NamedTuple):
    """How a class of pipelines tells its `network` of captions.

    `limits` are the numbers of tokens that its parts read, of what `wrap` makes of a caption. The answer of its
    `encode_prompt` has a caption's tokens in the slots `caption`, and what stands for none in `nothing`, unless that is
    the prompt which does; `more` is what it is told beside captions. The last of the parts may be `optional`. Where its
    tokens are lists, one for each caption, they are `ragged`.
    """

    network: str
    parts: tuple[Part, ...]
    limits: Callable[[Any], tuple[int, ...]]
    caption: Slots
    nothing: Slots | str
    wrap: Callable[[Any, str], str] = lambda _pipeline, caption: caption
    more: Callable[[Any], dict[str, Any]] = lambda _pipeline: {}
    optional: bool = False
    ragged: bool = False


def lower(_pipeline: Any, caption: str) -> str:
    return caption.lower().strip()


def find_instruction(pipeline: Any) -> dict[str, Any]:
    """Return what Sana's pipeline puts before a caption, the default of one of its arguments."""
    name = "complex_human_instruction"
    return {name: inspect.signature(pipeline.__call__).parameters[name].default}


def instruct(pipeline: Any, caption: str) -> str:
    return "\n".join(*find_instruction(pipeline).values()) + lower(pipeline, caption)


CLIP = Part("CLIPTokenizer", ("CLIPTextModel",))
PROJECTED = Part("CLIPTokenizer", ("CLIPTextModelWithProjection",))
T5 = Part("T5Tokenizer", ("T5EncoderModel",))
GEMMA = Part("GemmaTokenizer", ("Gemma2Model",))
QWEN_VL = Part("Qwen2Tokenizer", ("Qwen2_5_VLForConditionalGeneration",))
QWEN = Part("Qwen2Tokenizer", ("Qwen3Model", "Qwen3ForCausalLM"))
MASKED: dict[str, Any] = {"caption": Slots(0, 1), "nothing": Slots(2, 3)}
POOLED: dict[str, Any] = {"caption": Slots(0, None, 2), "nothing": Slots(1, None, 3)}
LUMINA2 = Pipeline(
    "Lumina2Transformer2DModel",
    (GEMMA,),
    lambda _: (256,),
    **MASKED,
    wrap=lambda pipeline, caption: f"{pipeline.system_prompt} <Prompt Start> {caption}",
)
PIPELINES: dict[str, Pipeline] = {
    "StableDiffusionPipeline": Pipeline(
        "UNet2DConditionModel", (CLIP,), lambda own: (own.tokenizer.model_max_length,), Slots(0), Slots(1)
    ),
    "StableDiffusionXLPipeline": Pipeline(
        "UNet2DConditionModel",
        (CLIP, PROJECTED),
        lambda own: (own.tokenizer.model_max_length, own.tokenizer_2.model_max_length),
        **POOLED,
    ),
    "PixArtAlphaPipeline": Pipeline("PixArtTransformer2DModel", (T5,), lambda _: (120,), **MASKED, wrap=lower),
    "PixArtSigmaPipeline": Pipeline("PixArtTransformer2DModel", (T5,), lambda _: (300,), **MASKED, wrap=lower),
    "StableDiffusion3Pipeline": Pipeline(
        "SD3Transformer2DModel",
        (PROJECTED, PROJECTED, T5),
        lambda own: (own.tokenizer_max_length, own.tokenizer_max_length, 256),
        **POOLED,
        more=lambda _: {"prompt_2": None, "prompt_3": None},
        optional=True,
    ),
    "SanaPipeline": Pipeline(
        "SanaTransformer2DModel",
        (GEMMA,),
        lambda own: (len(own.tokenizer.encode(instruct(own, ""))) + 298,),
        **MASKED,
        wrap=instruct,
        more=find_instruction,
    ),
    "FluxPipeline": Pipeline(
        "FluxTransformer2DModel", (CLIP, T5), lambda own: (own.tokenizer_max_length, 512), Slots(0, None, 1), ""
    ),
    "Lumina2Pipeline": LUMINA2,
    "Lumina2Text2ImgPipeline": LUMINA2,  # what it was called at first
    "QwenImagePipeline": Pipeline(
        "QwenImageTransformer2DModel",
        (QWEN_VL,),
        lambda own: (own.tokenizer_max_length + own.prompt_template_encode_start_idx,),
        Slots(0, 1),
        " ",
        wrap=lambda pipeline, caption: pipeline.prompt_template_encode.format(caption),
    ),
    "ZImagePipeline": Pipeline(
        "ZImageTransformer2DModel",
        (QWEN,),
        lambda _: (512,),
        Slots(0),
        Slots(1),
        wrap=lambda _, caption: f"<|im_start|>user\n{caption}<|im_end|>\n<|im_start|>assistant\n",
        ragged=True,
    ),
}
RENAMED = {"Lumina2Text2ImgPipeline": "Lumina2Pipeline"}
CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\\n' }}"
)
"""Qwen's own template of a question without tools, in place of a folder's, which would be a program."""
