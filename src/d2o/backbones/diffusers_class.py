"""Networks of diffusers by the name of their class, which the caller has checked, and their settings, which we check.

Only whole numbers, words and lists that a published network could have come through.
"""

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from math import prod
from types import NoneType
from typing import Any

import torch
from torch import nn

from d2o.records import nearest

TOLD_MORE = {
    "class_embed_type": None,
    "encoder_hid_dim_type": None,
    "num_class_embeds": None,
    "time_cond_proj_dim": None,
    "use_additional_t_cond": False,
    "siglip_feat_dim": None,
}
"""Settings with which a network is told more than a time and a caption, and the value that they have here."""
WHOLE = ("cross_attention_dim", "caption_channels", "joint_attention_dim", "pooled_projection_dim", "cap_feat_dim")
WHOLE += ("addition_time_embed_dim", "projection_class_embeddings_input_dim", "sample_size", "pos_embed_max_size")
"""Settings that are one number, or null."""
BOUNDS: dict[str, int] = {
    **dict.fromkeys(("num_layers", "num_single_layers", "layers_per_block", "n_layers"), 128),
    **dict.fromkeys(("transformer_layers_per_block", "num_refiner_layers", "n_refiner_layers"), 128),
    **dict.fromkeys(("axes_dims", "axes_dims_rope", "axes_dim_rope"), 1024),
}
LARGEST, LONGEST, MOST_PLACES = 1 << 16, 64, 1 << 27
"""Far above any published network, as BOUNDS are: a number, a list, a table of places. They stop a hostile file."""


def complete_settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of a class of diffusers, as JSON has them; ValueError for what cannot be used here."""
    if not isinstance(given, Mapping):
        raise ValueError(f"The backbone option settings must be a mapping, not {given!r}.")
    arguments = list_arguments(name)
    if unknown := next((key for key in given if key not in arguments), None):
        raise ValueError(f"A {name} has no setting {unknown!r}; {nearest(unknown, arguments)}")
    settings = {key: as_json(given.get(key, default)) for key, default in arguments.items()}
    for key, value in settings.items():
        if key in TOLD_MORE and value != TOLD_MORE[key]:
            raise ValueError(f"A {name} with {key} = {str(value)[:60]!r}takes more inputs than a time and a caption.")
        if not is_small(value, BOUNDS.get(key, LARGEST)) or (key in WHOLE and type(value) not in (int, NoneType)):
            raise ValueError(f"A {name} with {key} = {str(value)[:60]}cannot be used by d2o.")
    side = max(settings.get(key) or 1 for key in ("sample_size", "pos_embed_max_size"))
    widths = [settings.get(key) for key in ("num_attention_heads", "attention_head_dim")]
    if side**2 * prod(width for width in widths if isinstance(width, int)) > MOST_PLACES:
        raise ValueError(f"A {name} with a table of {side}x{side} placesis larger than d2o supports.")
    return settings


def list_arguments(name: str) -> dict[str, Any]:
    """Return the arguments of a class's constructor with their defaults."""
    return {key: row.default for key, row in inspect.signature(open_class(name)).parameters.items()}


def as_json(value: Any) -> Any:
    return list(map(as_json, value)) if isinstance(value, list | tuple) else value


def is_small(value: Any, most: int) -> bool:
    """Return whether a setting is a word, or a number up to `most`, or a short list of such."""
    if isinstance(value, list):
        return len(value) <= LONGEST and all(is_small(part, most) for part in value)
    if isinstance(value, str):
        return len(value) <= LONGEST
    return value is None or (isinstance(value, int | float) and 0 <= value <= most)


def make_network(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Return the network; where torch makes tensors on the meta device, so are its parameters, and no buffer is."""
    from accelerate import init_empty_weights

    is_meta = torch.get_default_device().type == "meta"
    try:
        with torch.device("cpu"), init_empty_weights(include_buffers=False) if is_meta else nullcontext():
            return open_class(name)(**settings)
    except Exception as error:  # whatever settings that do not fit together lead to
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"A {name}with these settings cannot be built ({reason}).") from error


def open_class(name: str) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise ValueError("This network needs diffusers: pip install -e '.[diffusers]' in d2o's folder") from error
    found = getattr(diffusers, name, None)
    if found is None:
        raise ValueError(f"The diffusers installed here, {diffusers.__version__}, has no {name}: take a newer one.")
    return found
