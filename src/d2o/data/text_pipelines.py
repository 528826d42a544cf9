"""Pipelines of diffusers that read captions, a row each, opened with their text encoders alone.

Classes are those of the table, and nothing that a folder brings along is imported or run.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from d2o.files import parse_json, read_bytes

from .source import describe

INDEX = "model_index.json"
LONGEST_JSON, LARGEST_FILE = 1 << 23, 1 << 27  # bytes of a config, and of a tokenizer's file
MOST_LAYERS, MOST_TOKENS = 512, 4096


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
MASKED = {"caption": Slots(0, 1), "nothing": Slots(2, 3)}
POOLED = {"caption": Slots(0, None, 2), "nothing": Slots(1, None, 3)}
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


def find_pipeline(folder: str | Path, network: str) -> tuple[str, dict[str, str]]:
    """Return the class of a folder's pipeline, and those of its tokenizers and text encoders; ValueError for others."""
    root = Path(folder)
    index = read_json(root / INDEX)
    name = index.get("_class_name")
    name = RENAMED.get(name, name) if isinstance(name, str) else None
    known = [one for one, row in PIPELINES.items() if row.network == network and one not in RENAMED]
    if name not in known:
        found = str(index.get("_class_name"))[:60]
        raise ValueError(f"{root} is a pipeline of class {found}; captions of a {network} are read by {list_(known)}.")
    row, classes = PIPELINES[name], {}
    for number, part in enumerate(row.parts):
        suffix = f"_{number + 1}" if number else ""
        allowed = {f"tokenizer{suffix}": (part.tokenizer,), f"text_encoder{suffix}": part.encoders}
        named = {key: value[-1] if isinstance(value := index.get(key), list) and value else None for key in allowed}
        if row.optional and number + 1 == len(row.parts) and not any(named.values()):
            continue
        for key, choices in allowed.items():
            found = str(named[key]).removesuffix("Fast") if key.startswith("tokenizer") else named[key]
            if found not in choices:
                raise ValueError(
                    f"{root / INDEX} names the {key} {str(named[key])[:60]}: it should be {list_(choices)}."
                )
            classes[key] = found
    return name, classes


def list_(names: Sequence[str]) -> str:
    return " or ".join(names) or "nothing that d2o knows"


def read_json(file: Path) -> dict[str, Any]:
    try:
        values = parse_json(read_bytes(file, LONGEST_JSON))
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON record")
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({describe(error)}): download the whole folder.") from error
    return values


@lru_cache(maxsize=2)
def open_pipeline(folder: str, network: str, precision: str) -> Any:
    """Return a stock pipeline that has only its frozen text encoders; nothing is downloaded."""
    name, classes = find_pipeline(folder, network)
    try:
        import diffusers
        import transformers  # noqa: F401  (without it diffusers has only stand-ins of its pipelines)
    except ImportError as error:
        raise ValueError("Captions need transformers: pip install -e '.[text]' in d2o's folder.") from error
    root, cls = Path(folder), getattr(diffusers, name)
    with silence():
        parts = {part: open_part(root / part, kind, precision) for part, kind in classes.items()}
        arguments = dict.fromkeys(
            key for key, row in inspect.signature(cls).parameters.items() if row.default is inspect.Parameter.empty
        )
        zeros = read_json(root / INDEX).get("force_zeros_for_empty_prompt", True) is True
        settings = {"requires_safety_checker": False, "add_watermarker": False, "force_zeros_for_empty_prompt": zeros}
        known = inspect.signature(cls).parameters
        pipeline = cls(**{**arguments, **parts, **{key: value for key, value in settings.items() if key in known}})
    if PIPELINES[name].optional:  # zeros of this width stand for the encoder that may be missing
        width = read_json(root / "transformer" / "config.json").get("joint_attention_dim")
        if type(width) is not int or not 0 < width < 1 << 16:
            raise ValueError(f"{root}/transformer has a joint_attention_dim of {str(width)[:20]}: download it again.")
        pipeline.transformer = SimpleNamespace(config=SimpleNamespace(joint_attention_dim=width))
    if max(PIPELINES[name].limits(pipeline)) > MOST_TOKENS:
        raise ValueError(f"The tokenizers in {root} say that they read more than {MOST_TOKENS:,} tokens: mend them.")
    return pipeline


def open_part(folder: Path, name: str, precision: str) -> Any:
    """Return a tokenizer or a text encoder."""
    import transformers

    if not folder.is_dir():
        raise ValueError(f"There is no {folder}, which reads captions: download the whole folder.")
    cls, only = getattr(transformers, name), {"local_files_only": True}
    try:
        if "Tokenizer" in name:
            if large := next((file for file in folder.iterdir() if file.stat().st_size > LARGEST_FILE), None):
                raise OSError(f"{large.name} is larger than {LARGEST_FILE:,} bytes")
            part = cls.from_pretrained(folder, **only)
            part.chat_template = CHAT
            return part
        check_network(folder, cls)
        how = {"use_safetensors": True, "dtype": getattr(torch, precision), "output_loading_info": True}
        part, found = cls.from_pretrained(folder, **only, **how)
        if missing := sorted(found["missing_keys"]):
            raise ValueError(f"its weights lack {missing[0]}")
    except Exception as error:  # those of libraries are of many kinds
        remedy = "download it again, or pip install what is missing"
        raise ValueError(f"The {name} in {folder} cannot be opened ({describe(error)}): {remedy}.") from error
    return part.to(find_device()).eval().requires_grad_(False)


def check_network(folder: Path, cls: Any) -> None:
    """Raise a ValueError for the config of another class, or of a network that is larger than its weights."""
    config = read_json(folder / "config.json")
    if config.get("model_type") != cls.config_class.model_type:
        raise ValueError(f"it is a {str(config.get('model_type'))[:60]}, not a {cls.config_class.model_type}")
    rows = [config, *(value for value in config.values() if isinstance(value, dict))]
    layers = [value for row in rows for key, value in row.items() if "layers" in key and isinstance(value, int)]
    if any(count > MOST_LAYERS for count in layers):
        raise ValueError(f"it has {max(layers):,} layers")
    with torch.device("meta"):
        numbers = sum(one.numel() for one in cls(cls.config_class.from_dict(config)).parameters())
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if numbers > stored:
        raise ValueError(f"its config asks for {numbers:,} numbers, but its weights have {stored:,} bytes")


@contextmanager
def silence() -> Iterator[None]:
    """Let diffusers and transformers say nothing less than an error, and show no bars."""
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels, bars = [logger.level for logger in loggers], transformers_logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


def find_device() -> torch.device:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")
