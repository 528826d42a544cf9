"""What every backbone is: F(x, noise, label, augmentation), rebuilt from its spec and frozen by its parts' roles."""

from typing import Any, ClassVar

from torch import Tensor, nn


class Backbone(nn.Module):
    """A network inside a denoiser: `{"kind": kind, **config}` is its JSON spec."""

    kind: ClassVar[str]
    config: dict[str, Any]

    @staticmethod
    def role(parameter_name: str) -> str:
        """Return what the parameter of that name is for, in one word such as "convolution" or "norm"."""
        raise NotImplementedError(parameter_name)

    def forward(
        self, x: Tensor, noise: Tensor, label: Tensor | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        """Return [N, out_channels, H, W] for x [N, in_channels, H, W] and noise [N] (the c_noise of preconditioning).

        `label` [N] are integer classes, negative or None for no class; `augmentation` is [N, augmentation_dim] or None.
        """
        raise NotImplementedError(x, noise, label, augmentation)
