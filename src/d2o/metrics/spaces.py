"""What is known about each feature space: its title, and which training it shares with a discriminator's networks."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """Where a frozen network comes from: its title, its family and what it was trained on."""

    title: str
    family: str
    data: str


IMAGENET = "ImageNet-1k"
SPACES = {
    "lite0": Origin("EfficientNet-lite0", "EfficientNet", IMAGENET),
    "lite2": Origin("EfficientNet-lite2", "EfficientNet", IMAGENET),
    "inception": Origin("Inception-v3", "Inception", IMAGENET),
    "vgg16": Origin("VGG16", "VGG", IMAGENET),
    "clip": Origin("CLIP ViT", "ViT (CLIP)", "400 M web images with captions"),
    "dinov2": Origin("DINOv2 ViT", "ViT (DINOv2)", "LVD-142M"),
    "pixels": Origin("pixels", "none", "nothing"),
}
FAMILIES = {"tf_efficientnet": "EfficientNet", "efficientnet": "EfficientNet", "vgg": "VGG", "deit": "ViT (DeiT)"}
"""Families of a discriminator's networks by the beginning of their timm names."""
OTHER_DATA = {"clip": "400 M web images with captions", "dinov2": "LVD-142M"}
"""Training data that a timm name gives away; the networks in use here are otherwise ImageNet-1k classifiers."""


def origin(space: str) -> Origin:
    """Return what is known about a space such as `lite2@64`."""
    name = space.partition("@")[0]
    return SPACES.get(name, Origin(name, name, "unknown data"))


def title(space: str) -> str:
    """Return a space's name in words, for example "EfficientNet-lite2 features at 64 px"."""
    size = space.partition("@")[2]
    return f"{origin(space).title} features" + (f" at {size} px" if size else "")


def frechet_name(space: str) -> str:
    """Return "FID" for Inception's features, and "Frechet distance" for all others."""
    return "FID" if origin(space).family == "Inception" else "Frechet distance"


def overlap(space: str, judged_by: Sequence[str]) -> list[str]:
    """Return one sentence for each discriminator network (timm name) that is related to the metric's own network.

    A generator trained against relatives of the metric's network looks better by that metric than it is.
    """
    metric, warnings = origin(space), []
    for network in judged_by:
        family = next((family for start, family in FAMILIES.items() if network.startswith(start)), network)
        data = next((data for word, data in OTHER_DATA.items() if word in network), IMAGENET)
        shared = [f"family ({family})"] * (family == metric.family) + [f"training data ({data})"] * (data == metric.data)
        if shared:
            warnings.append(
                f"The generator was trained against {network}, which has the {' and '.join(shared)} of the metric's "
                f"{metric.title}: this flatters it, so confirm in an unrelated feature space."
            )
    return warnings
