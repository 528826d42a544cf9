"""What the page is sent is checked here, whoever sent it: anyone can call its endpoints with anything."""

from typing import Any

from torch import Tensor

from d2o.data.files import MAX_SEED, parse_seeds
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import labels_for

LONGEST = 200
"""Characters of a list of seeds."""


def number(value: Any, name: str, least: float, most: float) -> float:
    """Return a number between two bounds; anything else is a ValueError that names the field."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        shown = repr(value)[:40] if not isinstance(value, int) or abs(value) < 10**40 else "so large a number"
        raise ValueError(f"{name} is a number from {least:,.0f} to {most:,.0f}, not {shown}.")
    return value


def whole(value: Any, name: str, least: int, most: int) -> int:
    """Return a whole number between two bounds."""
    if number(value, name, least, most) != int(value):
        raise ValueError(f"{name} is a whole number, not {value:g}.")
    return int(value)


def seed_of(value: Any, name: str = "Seed") -> int:
    """Return a seed; the largest leaves room for a walk."""
    return whole(value, name, 0, 2**53)  # what a page can hold exactly


def seeds_of(text: Any, most: int) -> list[int]:
    """Return the seeds of a text such as "0-63" or "1,5,9", at most so many."""
    if not isinstance(text, str) or len(text) > LONGEST:
        raise ValueError(f"Seeds are written like 0-63 or 1,5,9-12, in at most {LONGEST} characters.")
    try:
        seeds = parse_seeds(text)
    except ValueError as error:
        raise ValueError(str(error).replace("--seeds", "Seeds").replace(str(MAX_SEED), f"{MAX_SEED:,}")) from error
    if len(seeds) > most:
        raise ValueError(f"{len(seeds):,} seeds are too many for a page: name at most {most}, or use d2o sample.")
    return seeds


def labels_of(denoiser: Denoiser, label: Any, seeds: list[int]) -> Tensor | None:
    """Return the class [N] of every seed: the one asked for, or by default seed modulo the number of classes."""
    if label in (None, "", "by seed") or denoiser.num_classes == 0:
        return labels_for([seed % max(denoiser.num_classes, 1) for seed in seeds], denoiser.num_classes)
    if isinstance(label, str) and label.strip().isdecimal() and len(label) < 9:
        label = int(label)
    return labels_for(seeds, denoiser.num_classes, whole(label, "Class", 0, denoiser.num_classes - 1))
