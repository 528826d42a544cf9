"""Open the text encoders of a stock pipeline of diffusers, and ask them for captions.

Classes are those of a table, and nothing that a folder brings along is imported or run.
"""

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from d2o.devices import find_device
from d2o.diffusion.condition import Text, pad
from d2o.errors import describe, printable
from d2o.files import parse_json, read_bytes

from .text_pipelines import CHAT, PIPELINES, RENAMED, Slots

INDEX = "model_index.json"
LONGEST_JSON, LARGEST_FILE = 1 << 23, 1 << 27  # bytes of a config, and of a tokenizer's file
MOST_LAYERS, MOST_TOKENS = 512, 4096
AT_ONCE = 16  # captions


def find_pipeline(folder: str | Path, network: str) -> tuple[str, dict[str, str]]:
    """Return the class of a folder's pipeline, and those of its tokenizers and text encoders; ValueError for others."""
    root = Path(folder)
    index = read_json(root / INDEX)
    name = index.get("_class_name")
    name = RENAMED.get(name, name) if isinstance(name, str) else None
    known = [one for one, row in PIPELINES.items() if row.network == network and one not in RENAMED]
    if name not in known:
        found, readers = str(index.get("_class_name"))[:60], " or ".join(known) or "none that d2o knows"
        raise ValueError(f"{root} is a pipeline of class {found}; captions of a {network[:60]} are read by {readers}.")
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
                wanted = " or ".join(choices)
                raise ValueError(f"{root / INDEX} names the {key} {str(named[key])[:60]}: it should be {wanted}.")
            classes[key] = found
    return name, classes


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
        known = inspect.signature(cls).parameters
        missing = {key: None for key, row in known.items() if row.default is inspect.Parameter.empty}
        zeros = read_json(root / INDEX).get("force_zeros_for_empty_prompt", True) is True
        settings = {"requires_safety_checker": False, "add_watermarker": False, "force_zeros_for_empty_prompt": zeros}
        settings = {key: value for key, value in settings.items() if key in known}
        pipeline = cls(**{**missing, **parts, **settings})
    if PIPELINES[name].optional:  # zeros of this width stand for the encoder that may be missing
        width = read_json(root / "transformer" / "config.json").get("joint_attention_dim")
        if type(width) is not int or not 0 < width < 1 << 16:
            raise ValueError(f"{root}/transformer has a joint_attention_dim of {str(width)[:20]}: download it again.")
        pipeline.transformer = SimpleNamespace(config=SimpleNamespace(joint_attention_dim=width))
    if max(PIPELINES[name].limits(pipeline)) > MOST_TOKENS:
        raise ValueError(f"The tokenizers in {root} claim to read more than {MOST_TOKENS:,} tokens: correct them.")
    return pipeline


def open_part(folder: Path, name: str, precision: str) -> Any:
    """Return a tokenizer or a text encoder."""
    import transformers

    if not folder.is_dir():
        raise ValueError(f"There is no {folder}, which is needed to read captions: download the whole folder.")
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


def encode(folder: str, network: str, precision: str, captions: Sequence[str]) -> list[Text]:
    """Return what the network is told of captions, some at a time; a warning says what is cut."""
    pipeline = open_pipeline(folder, network, precision)
    parts = [list(captions[start : start + AT_ONCE]) for start in range(0, len(captions), AT_ONCE)]
    try:
        texts = [ask(pipeline, part) for part in parts]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # of parts that do not fit
        raise ValueError(
            f"The text encoders in {folder} cannot read captions ({describe(error)}): download the whole folder again."
        ) from error
    warn_of_cuts(pipeline, captions)
    return texts


@lru_cache(maxsize=2)
def encode_nothing(folder: str, network: str, precision: str) -> Text:
    """Return the text [1, ...] of no caption."""
    pipeline = open_pipeline(folder, network, precision)
    nothing = PIPELINES[type(pipeline).__name__].nothing
    return ask(pipeline, [nothing]) if isinstance(nothing, str) else ask(pipeline, [""], nothing)


@torch.no_grad()
def ask(pipeline: Any, captions: list[str], slots: Slots | None = None) -> Text:
    """Return what `encode_prompt` says of captions; with `slots`, what it says beside them of no caption."""
    row = PIPELINES[type(pipeline).__name__]
    known = inspect.signature(pipeline.encode_prompt).parameters
    asked = {"prompt": captions, "device": find_device(), "num_images_per_prompt": 1, **row.more(pipeline)}
    asked |= {"do_classifier_free_guidance": slots is not None}
    with silence():
        answer = pipeline.encode_prompt(**{name: value for name, value in asked.items() if name in known})
    slots = slots or row.caption
    if row.ragged:
        return pad(answer[slots.tokens])
    mask, pooled = (None if slot is None else answer[slot] for slot in (slots.mask, slots.pooled))
    return Text(answer[slots.tokens], mask, pooled)


def warn_of_cuts(pipeline: Any, captions: Sequence[str]) -> None:
    """Say which of the captions are longer than a text encoder reads, and by how many tokens."""
    row = PIPELINES[type(pipeline).__name__]
    seen = [row.wrap(pipeline, caption) for caption in captions]
    for tokenizer, limit in zip(("tokenizer", "tokenizer_2", "tokenizer_3"), row.limits(pipeline), strict=False):
        if (count := getattr(pipeline, tokenizer)) is None:
            continue
        with silence():
            cuts = {caption: len(ids) - limit for caption, ids in zip(captions, count(seen).input_ids, strict=True)}
        if (cut := max(cuts.values())) > 0:
            longest, others = max(cuts, key=cuts.__getitem__), sum(one > 0 for one in cuts.values()) - 1
            more = f", and some of {others:,} more captions" if others else ""
            reads = f"A text encoder reads {limit} tokens"
            warnings.warn(printable(f"{reads}: {cut} of {longest[:60]!r} are cut{more}."), stacklevel=4)
