"""What a denoiser should learn: each objective is a loss per image. They are handed their networks and build none."""

from .adversarial import Adversarial
from .consistency import Consistency
from .denoising import Denoising
from .distribution_matching import DistributionMatching
from .frechet import Frechet
from .objective import Objective, Turn
from .progressive import Progressive
from .trajectory import ReverseConsistency, Trajectory

OBJECTIVES: dict[str, type[Objective]] = {
    "denoising": Denoising,
    "adversarial": Adversarial,
    "frechet": Frechet,
    "distribution-matching": DistributionMatching,
    "consistency": Consistency,
    "progressive": Progressive,
    "trajectory": Trajectory,
    "reverse-consistency": ReverseConsistency,
}
"""Every objective by its `kind`."""

__all__ = [
    "OBJECTIVES", "Adversarial", "Consistency", "Denoising", "DistributionMatching", "Frechet", "Objective",
    "Progressive", "ReverseConsistency", "Trajectory", "Turn",
]  # fmt: skip
