"""Networks that tell generated images from real ones: each maps images and labels to logits."""

from .convolutional import Convolutional
from .discriminator import About, Discriminator
from .own_features import OwnFeatures
from .perceptual import Perceptual
from .projected import Projected, ProjectedDiscriminator
from .stylegan2 import StyleGAN2

DISCRIMINATORS = {
    "projected": Projected,
    "stylegan2": StyleGAN2,
    "perceptual": Perceptual,
    "convolutional": Convolutional,
    "own-features": OwnFeatures,
}
"""The record of every discriminator by its `kind`: its `build(image_shape, num_classes, seed)` makes the network.

One with `needs` is given these networks of the run by name, too.
"""

__all__ = [
    "DISCRIMINATORS", "About", "Convolutional", "Discriminator", "OwnFeatures", "Perceptual", "Projected",
    "ProjectedDiscriminator", "StyleGAN2",
]  # fmt: skip
