"""What the options of every backbone may be: one table, checked in one place before a network is built."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Option(NamedTuple):
    """The values that an option takes: a test and its description for people."""

    allows: Callable[[Any], bool]
    meaning: str


def whole(least: int, most: int) -> Option:
    """An integer from `least` to `most`."""
    return Option(lambda value: type(value) is int and least <= value <= most, f"a whole number {least} to {most}")


def wholes(shortest: int, longest: int, least: int, most: int) -> Option:
    """A list or tuple of `shortest` to `longest` integers from `least` to `most`."""
    item = whole(least, most)
    return Option(
        lambda values: (
            isinstance(values, list | tuple)
            and shortest <= len(values) <= longest
            and all(item.allows(value) for value in values)
        ),
        f"{shortest} to {longest} whole numbers, each {least} to {most}",
    )


def share() -> Option:
    """A probability below one."""
    return Option(lambda value: type(value) in (int, float) and 0 <= value < 1, "a number from 0 to below 1")


def balance() -> Option:
    """The share of the second of two inputs that are joined."""
    return Option(lambda value: type(value) in (int, float) and 0 <= value <= 1, "a number from 0 to 1")


def limit() -> Option:
    """A positive number, or None for no limit."""
    return Option(
        lambda value: value is None or (type(value) in (int, float) and 0 < value < math.inf),
        "a positive number or None",
    )


def number(most: float) -> Option:
    """A positive number up to `most`."""
    return Option(lambda value: type(value) in (int, float) and 0 < value <= most, f"a positive number up to {most:g}")


def flag() -> Option:
    """Yes or no."""
    return Option(lambda value: type(value) is bool, "true or false")


def choice(*names: str) -> Option:
    """One of the given words."""
    return Option(lambda value: isinstance(value, str) and value in names, "one of " + ", ".join(map(repr, names)))


# The upper ends are far above any sensible network; they stop a damaged or hostile file from asking for a huge one.
OPTIONS: dict[str, Option] = {
    "resolution": whole(1, 4096),
    "in_channels": whole(1, 4096),
    "out_channels": whole(1, 4096),
    "num_classes": whole(0, 1_000_000),
    "augmentation_dim": whole(0, 4096),
    "channels": whole(4, 4096),
    "channel_multipliers": wholes(1, 10, 1, 64),
    "embedding_multiplier": whole(1, 64),
    "num_blocks": whole(1, 64),
    "attention_resolutions": wholes(0, 10, 1, 4096),
    "dropout": share(),
    "label_dropout": share(),
    "adaptive_scale": flag(),
    "head_channels": whole(1, 4096),
    "label_balance": balance(),
    "concat_balance": balance(),
    "residual_balance": balance(),
    "attention_balance": balance(),
    "clip": limit(),
    "embedding": choice("positional", "fourier"),
    "noise_embedding_multiplier": whole(1, 64),
    "encoder": choice("standard", "skip", "residual"),
    "decoder": choice("standard", "skip"),
    "resample_filter": wholes(2, 16, 1, 1_000_000),
    "patch_size": whole(1, 64),
    "num_heads": whole(1, 256),
    "mlp_multiplier": whole(1, 64),
    "mlp_eps": number(1),
    "time_endpoint": flag(),
    "embedders": choice("shared", "per block"),
}


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options among `values` as JSON-able numbers, words and lists, or raise ValueError for a wrong one."""
    config = {name: value for name, value in values.items() if name in OPTIONS}
    for name, value in config.items():
        if not OPTIONS[name].allows(value):
            raise ValueError(f"The backbone option {name} must be {OPTIONS[name].meaning}, not {value!r}.")
    halvings = len(config.get("channel_multipliers", (1,))) - 1
    if config["resolution"] % 2**halvings:
        raise ValueError(
            f"The backbone halves its images {halvings} times: resolution {config['resolution']} must be a multiple "
            f"of {2**halvings}, or channel_multipliers shorter."
        )
    if len(config.get("resample_filter", (1, 1))) % 2:
        raise ValueError("The backbone option resample_filter must have an even number of taps.")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
