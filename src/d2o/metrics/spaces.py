"""What is known about each feature space: its title, and what it shares with the networks of a discriminator."""

from collections.abc import Sequence

from d2o.features.embedding import SPACES

TITLES = {
    "lite0": "EfficientNet-lite0",
    "lite2": "EfficientNet-lite2",
    "inception": "Inception-v3",
    "clip": "CLIP ViT-B/32",
    "dinov2": "DINOv2 ViT-L/14",
    "pixels": "pixel",
}
IMAGENET = "ImageNet-1k"
FAMILIES = {"tf_efficientnet": "EfficientNet", "efficientnet": "EfficientNet", "inception": "Inception-v3"}
"""Families of a discriminator's networks, by the beginning of their timm names."""
OTHER_DATA = {"clip": "OpenAI", "lvd142m": "LVD-142M"}
"""Training data that a timm name gives away; the classifiers in use here have otherwise seen ImageNet-1k."""


def title(space: str) -> str:
    """Return a space's name in words, for example "EfficientNet-lite2 features at 64 px"."""
    name, _, size = space.partition("@")
    return f"{TITLES.get(name, name)} features" + (f" at {size} px" if size else "")


def frechet_name(space: str) -> str:
    """Return "FID" for Inception's features, and "Frechet distance" for all others."""
    return "FID" if space.partition("@")[0] == "inception" else "Frechet distance"


def overlap(space: str, judged_by: Sequence[str]) -> list[str]:
    """Return one sentence for each discriminator network (timm name) that is related to the metric's own network.

    A generator trained against relatives of the metric's network looks better by that metric than it is.
    """
    row = SPACES.get(space.partition("@")[0])
    family, _, data = row.network.partition(", ") if row else (space, "", "")
    warnings = []
    for network in judged_by:
        its_family = next((family for start, family in FAMILIES.items() if network.startswith(start)), network)
        its_data = next((data for word, data in OTHER_DATA.items() if word in network), IMAGENET)
        shared = [words for words, same in ((f"family ({family})", its_family == family),
                                            (f"training data ({data})", its_data == data)) if same]  # fmt: skip
        if shared:
            warnings.append(
                f"The generator was trained against {network}, which shares its {' and '.join(shared)} with the "
                f"metric's {title(space)}: the numbers flatter it, so confirm them in an unrelated feature space."
            )
    return warnings
