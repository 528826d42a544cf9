"""The base of networks that others trained and that nobody trains here."""

from typing import Any, Self

from torch import nn


class Frozen(nn.Module):
    """A network in evaluation mode, without gradients and with an empty state dict: its weights can be loaded again.

    A module around it saves, and strictly loads, a state dict that contains nothing of it.
    """

    def freeze(self) -> Self:
        """Stop the gradients of all that was assigned so far, and put it in evaluation mode."""
        return self.train().requires_grad_()

    def train(self, mode: bool = True) -> Self:
        del mode
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        del requires_grad
        return super().requires_grad_(False)

    def state_dict(self, *args: Any, destination: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        del args, options
        return {} if destination is None else destination

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Hand the parts inside their own tensors; whatever a state dict says of them is passed over."""
        del rest
        for name in [name for name in state_dict if name.startswith(prefix)]:
            del state_dict[name]
        state_dict.update(super().state_dict(prefix=prefix))
