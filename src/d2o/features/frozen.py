"""The base of networks that others trained and that nobody trains here."""

from typing import Any, Self

import torch
from torch import nn


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

    def state_dict(self, *args: Any, destination: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        del args, options
        return {} if destination is None else destination

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        """Give the parts inside their own tensors to load; entries of theirs in an older state dict are ignored."""
        del rest
        for name in [name for name in state_dict if name.startswith(prefix)]:
            del state_dict[name]
        state_dict.update(super().state_dict(prefix=prefix))
