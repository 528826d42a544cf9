"""The contract of every backbone: F(x, noise, condition, augmentation), rebuilt from its spec and frozen by role."""

import re
from typing import Any, ClassVar

from torch import Tensor, nn

Roles = tuple[tuple[str, str], ...]


class Backbone(nn.Module):
    """A network inside a denoiser: `{"kind": kind, **config}` is its JSON spec.

    `roles` are rows (pattern, role): the first pattern found in a parameter's name says what the parameter is for.
    One that `reads_words` is told their numbers [N, L] in place of classes, if it `blends` also a
    `d2o.diffusion.condition.Blend` of them, and one with a `text_width` a `d2o.diffusion.Text`, whose captions have
    vectors so wide.
    """

    kind: ClassVar[str]
    reads_words: ClassVar[bool] = False
    blends: ClassVar[bool] = False
    text_width: int = 0
    roles: ClassVar[Roles] = ()
    config: dict[str, Any]

    @classmethod
    def role(cls, parameter_name: str) -> str:
        """Return what the parameter of that name is for, in one word such as "convolution" or "norm"."""
        for pattern, role in cls.roles:
            if re.search(pattern, parameter_name):
                return role
        raise ValueError(f"No role is known for the parameter {parameter_name!r}: let {cls.__name__}.roles tell it.")

    def constrain_weights(self) -> None:
        """Bring trainable weights back to where they belong, which every training iteration begins with: anywhere."""

    def forward(self, x: Tensor, noise: Tensor, condition: Any = None, augmentation: Tensor | None = None) -> Tensor:
        """Return [N, out_channels, H, W] for x [N, in_channels, H, W] and noise [N] (the c_noise of preconditioning).

        `condition` are integer classes [N], negative or None for no class, or what else the network takes, with a row
        an image; `augmentation` is [N, augmentation_dim] or None.
        """
        raise NotImplementedError(x, noise, condition, augmentation)
