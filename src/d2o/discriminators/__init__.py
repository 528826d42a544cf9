"""Networks that tell generated images from real ones: each maps images and labels to logits."""

from .convolutional import Convolutional
from .perceptual import Perceptual
from .projected import Projected, ProjectedDiscriminator
from .stylegan2 import StyleGAN2

DISCRIMINATORS = {
    "projected": Projected,
    "stylegan2": StyleGAN2,
    "perceptual": Perceptual,
    "convolutional": Convolutional,
}
"""Every record of a discriminator by its `kind`: `build(image_shape, num_classes, seed)` makes the network."""

__all__ = ["DISCRIMINATORS", "Convolutional", "Perceptual", "Projected", "ProjectedDiscriminator", "StyleGAN2"]
