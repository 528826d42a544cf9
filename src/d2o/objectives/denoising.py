"""Diffusion pre-training: restore images from noise of every level."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.data.augmentation import AUGMENTATION_DRAWS, Augmentation, augment
from d2o.diffusion.families import EDM
from d2o.diffusion.noise import log_normal_sigmas
from d2o.records import RECORD, Real

from .batch import Batch
from .objective import Networks, Objective


@dataclass(frozen=True, config=RECORD)
class Denoising(Objective):
    """The squared error of the network's own output: EDM's loss (arXiv 2206.00364, section 5), and flow matching.

    ln(sigma) ~ N(sigma_mean, sigma_deviation^2), by default the family's own. The loss is the mean over the pixels.
    With `sigma_data` it is weighted as EDM's, whatever the family. `augmentation` needs a backbone with augmentation
    labels; without them it is off.
    """

    kind: Literal["denoising"] = "denoising"
    weight: Real = 1.0
    sigma_mean: Real | None = None
    sigma_deviation: Annotated[Real, Field(gt=0)] | None = None
    sigma_data: Annotated[Real, Field(gt=0)] | None = None
    augmentation: Augmentation | None = None

    dropout = True

    @property
    def augments(self) -> bool:
        return self.augmentation is not None

    def __call__(self, networks: Networks, batch: Batch) -> Tensor:
        x0, augmentation = batch.latents_for(networks.student), None
        if self.augmentation is not None:
            x0, augmentation = augment(x0, batch.uniform("augmentation", AUGMENTATION_DRAWS), self.augmentation)
        family = networks.student.preconditioning
        mean, deviation = family.log_sigma_in_training
        mean = mean if self.sigma_mean is None else self.sigma_mean
        deviation = deviation if self.sigma_deviation is None else self.sigma_deviation
        sigma = log_normal_sigmas(batch.uniform("level", 1)[:, 0], mean, deviation)
        noise = sigma.view(-1, 1, 1, 1) * batch.noise("noise", x0.shape[1:])
        error = networks.student(x0 + noise, sigma, batch.condition, augmentation) - x0
        weighting = family if self.sigma_data is None else EDM(self.sigma_data)
        return weighting.weight(sigma) * error.square().mean((1, 2, 3))
