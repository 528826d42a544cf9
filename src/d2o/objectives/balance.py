"""Bring the gradients that reach an image through several judges to one scale (arXiv 2511.22475)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

TINY = 1e-30


class Balance(nn.Module):
    """Running mean squares of the gradient of each loss by the images: after it, a loss counts whatever its scale.

    A gradient of running root mean square r, of images with D numbers, is divided by r D: as if the loss were a mean
    over the numbers of an image.
    """

    squares: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("squares", torch.zeros(0))  # one for each loss, from the first iteration on
        self.seen: list[Tensor] = []

    def forward(self, losses: Sequence[Tensor], images: Tensor, decay: float) -> Tensor:
        """Return the sum of losses [N], each with a graph of its own, but with the balanced gradient by the images."""
        gradients = [torch.autograd.grad(loss.sum(), images, retain_graph=True)[0] for loss in losses]
        squares = torch.stack([gradient.square().mean() for gradient in gradients])
        self.seen.append(squares)
        sizes = self.mix(squares, decay).sqrt() * images[0].numel()
        balanced = sum(gradient / size for gradient, size in zip(gradients, sizes.clamp(min=TINY), strict=True))
        slope = (images * balanced).flatten(1).sum(1)
        return torch.stack(list(losses)).sum(0).detach() + slope - slope.detach()

    @torch.no_grad()
    def settle(self, decay: float) -> None:
        """End an iteration: what was seen in it becomes part of the running squares, unless it is not finite."""
        squares = torch.stack(self.seen).mean(0)
        self.seen = []
        if dist.is_initialized():
            dist.all_reduce(squares)
            squares /= dist.get_world_size()
        if bool(squares.isfinite().all()):
            self.squares = self.mix(squares, decay)

    def mix(self, squares: Tensor, decay: float) -> Tensor:
        return squares.lerp(self.squares, decay) if len(self.squares) else squares

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Tensor], prefix: str, *rest: Any
    ) -> None:
        self.squares = self.squares.new_empty(state_dict[f"{prefix}squares"].shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)
