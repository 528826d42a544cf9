"""What is known about each feature space: its title, and what it shares with the networks of a discriminator."""

from collections.abc import Sequence

from d2o.features.embedding import SPACES

FAMILIES = {"tf_efficientnet": "EfficientNet", "efficientnet": "EfficientNet", "inception": "Inception-v3"}
"""Families of a discriminator's networks, by the beginning of their timm names."""
OTHER_DATA = {"clip": "OpenAI", "lvd142m": "LVD-142M", "pixels": "none"}
"""Training data that a timm name gives away; the other classifiers have seen ImageNet-1k."""


def title(space: str) -> str:
    """Return a space's name in words, for example "EfficientNet-lite2 features at 64 px"."""
    name, _, size = space.partition("@")
    words = SPACES[name].title if name in SPACES else name
    return f"{words} features" + (f" at {size} px" if size else "")


def frechet_name(space: str) -> str:
    """Return "FID" for Inception's features, and "Frechet distance" for all others."""
    return "FID" if space.partition("@")[0] == "inception" else "Frechet distance"


def overlap(space: str, judged_by: Sequence[str]) -> list[str]:
    """Return one sentence for each network (timm name) of the training that is related to the metric's own network.

    A generator trained against relatives of the metric's network looks better by that metric than it is.
    """
    row, warnings = SPACES.get(space.partition("@")[0]), []
    if row is None:
        return []
    for network in judged_by:
        family = next((family for start, family in FAMILIES.items() if network.startswith(start)), network)
        data = next((data for word, data in OTHER_DATA.items() if word in network), "ImageNet-1k")
        shared = [f"family ({family})"] * (family == row.family) + [f"training data ({data})"] * (data == row.data)
        known = f"shares its {' and '.join(shared)} with" if shared else ""
        if known := "is" if network == row.network else known:
            warnings.append(
                f"The generator was trained against {network}, which {known} the "
                f"metric's {title(space)}: the numbers flatter it, so confirm them in an unrelated feature space."
            )
    return warnings
