"""Networks that tell generated images from real ones: each maps images and labels to logits."""

from d2o.discriminators.projected import Projected, ProjectedDiscriminator

DISCRIMINATORS = {Projected.kind: Projected}

__all__ = ["DISCRIMINATORS", "Projected", "ProjectedDiscriminator"]
