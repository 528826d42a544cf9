"""What the options of every backbone may be: a table, checked in one place before a network is built."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Option(NamedTuple):
    """The values that an option takes: a test and its description for people."""

    allows: Callable[[Any], bool]
    meaning: str


def whole(least: int, most: int) -> Option:
    return Option(lambda value: type(value) is int and least <= value <= most, f"a whole number {least} to {most}")


def number(allows: Callable[[float], bool], meaning: str) -> Option:
    return Option(lambda value: type(value) in (int, float) and allows(value), meaning)


def choice(*names: str) -> Option:
    return Option(lambda value: isinstance(value, str) and value in names, "one of " + ", ".join(map(repr, names)))


def several(item: Option, shortest: int, longest: int) -> Option:
    def allows(values: Any) -> bool:
        fits = isinstance(values, list | tuple) and shortest <= len(values) <= longest
        return fits and all(item.allows(value) for value in values)

    return Option(allows, f"a list of {shortest} to {longest} values, each {item.meaning}")


def optional(option: Option) -> Option:
    return Option(lambda value: value is None or option.allows(value), f"{option.meaning}, or null")


FLAG = Option(lambda value: type(value) is bool, "true or false")
PROBABILITY = number(lambda value: 0 <= value < 1, "a number from 0 to below 1")
BALANCE = number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
POSITIVE = number(lambda value: 0 < value < math.inf, "a positive number")

# The upper ends are far above any sensible network; they stop a damaged or hostile file from asking for a huge one.
OPTIONS: dict[str, Option] = {
    "resolution": whole(1, 4096),
    "in_channels": whole(1, 4096),
    "out_channels": whole(1, 4096),
    "num_classes": whole(0, 1_000_000),
    "augmentation_dim": whole(0, 4096),
    "channels": whole(4, 4096),
    "channel_multipliers": several(whole(1, 64), 1, 10),
    "embedding_multiplier": whole(1, 64),
    "num_blocks": whole(1, 64),
    "attention_resolutions": several(whole(1, 4096), 0, 10),
    "dropout": PROBABILITY,
    "label_dropout": PROBABILITY,
    "adaptive_scale": FLAG,
    "head_channels": whole(1, 4096),
    "label_balance": BALANCE,
    "concat_balance": BALANCE,
    "residual_balance": BALANCE,
    "attention_balance": BALANCE,
    "clip": optional(POSITIVE),
    "embedding": choice("positional", "fourier"),
    "noise_embedding_multiplier": whole(1, 64),
    "encoder": choice("standard", "skip", "residual"),
    "decoder": choice("standard", "skip"),
    "resample_filter": several(whole(1, 1_000_000), 2, 16),
    "patch_size": whole(1, 64),
    "num_heads": whole(1, 256),
    "groups": whole(1, 4096),
    "resampling": choice("block", "convolution"),
    "mlp_multiplier": whole(1, 64),
    "mlp_eps": number(lambda value: 0 < value <= 1, "a positive number up to 1"),
    "time_endpoint": FLAG,
    "embedders": choice("shared", "per block"),
    "qk_norm": FLAG,
    "vocabulary": whole(2, 1_000_000),
    "length": whole(1, 4096),
    "caption_dropout": PROBABILITY,
}


def check_options(values: Mapping[str, Any], table: Mapping[str, Option] = OPTIONS) -> dict[str, Any]:
    """Return the options among `values` in JSON's types; ValueError for one that its row of the table forbids."""
    config = {name: value for name, value in values.items() if name in table}
    for name, value in config.items():
        if not table[name].allows(value):
            raise ValueError(f"The backbone option {name} must be {table[name].meaning}, not {value!r}.")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
