"""The base of networks that others trained and that nobody trains here, and what their images go through first."""

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Frozen(nn.Module):
    """A network in evaluation mode, without gradients and with an empty state dict: its weights can be loaded again.

    A module around it saves, and strictly loads, a state dict that contains nothing of it.
    """

    def freeze(self) -> Self:
        """Freeze all parts assigned so far and lay them out channels-last; subclasses call this once they are built."""
        self.train().requires_grad_()
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train(self, mode: bool = True) -> Self:
        del mode
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        del requires_grad
        return super().requires_grad_(False)

    def state_dict(self, *_: Any, destination: dict[str, Any] | None = None, **__: Any) -> dict[str, Any]:
        return {} if destination is None else destination

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Any], prefix: str, *_: Any
    ) -> None:
        """Give the parts inside their own tensors to load; entries of theirs in an older state dict are ignored."""
        for name in [name for name in state_dict if name.startswith(prefix)]:
            del state_dict[name]
        state_dict.update(super().state_dict(prefix=prefix))


class FrozenMaps(Frozen):
    """A frozen network that maps images [N,C,H,W] to a list of maps, each image for itself."""

    def forward(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError(images)


class Normalise(nn.Module):
    """Move images [N,C,H,W] from [-1, 1] to [0, 1], normalise them by `mean` and `deviation`, and resize to `size`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float], size: int | None) -> None:
        super().__init__()
        self.size = size
        centre, width = (torch.tensor(row)[:, None, None] for row in (mean, deviation))
        self.register_buffer("scale", 0.5 / width, persistent=False)
        self.register_buffer("shift", (0.5 - centre) / width, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        images = images.float() * self.scale + self.shift
        if self.size is None or images.shape[-2:] == (self.size, self.size):
            return images
        return F.interpolate(images, (self.size, self.size), mode="bilinear", align_corners=False)
