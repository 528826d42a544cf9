"""Any denoiser of d2o as a model of diffusers: import this module before loading its pipeline.

In a ConsistencyModelPipeline it gives D(x, sigma) at every noise level, whatever family it comes from.
"""

import math
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from d2o import backbones
from d2o.diffusion import families
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import SIGMA_MIN


class D2OModel(ModelMixin, ConfigMixin):
    """A denoiser that speaks like the network of a consistency model.

    The pipeline hands it x / sqrt(sigma^2 + sigma_data^2) and 250 ln(sigma), and makes of its answer F the image
    skip * x + output * F, with the coefficients of the boundary form. F is what makes this image D(x, sigma).
    """

    _keep_in_fp32_modules = ["denoiser"]  # noqa: RUF012  diffusers' own word, a list

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        family: dict[str, Any],
        sample_size: int,
        in_channels: int,
        num_class_embeds: int | None = None,
        sigma_data: float = 0.5,
        sigma_min: float = SIGMA_MIN,
    ) -> None:
        super().__init__()
        shape = (in_channels, sample_size, sample_size)
        formula = families.from_spec(family)
        self.denoiser = Denoiser(backbones.build(backbone), formula, shape, num_class_embeds or 0)
        self.boundary = families.Boundary(sigma_data, sigma_min)

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """Return F [N,C,H,W] for the scaled `sample` [N,C,H,W] and `timestep`, one number for all."""
        sigma = math.exp(float(timestep) / 250)
        skip, output, scale, _ = (c.item() for c in self.boundary(torch.tensor(sigma, dtype=torch.float64)))
        x = sample.float() / scale
        answer = ((self.denoiser(x, sigma, class_labels) - skip * x) / output).to(sample.dtype)
        return UNet2DOutput(sample=answer) if return_dict else (answer,)
