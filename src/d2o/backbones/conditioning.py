"""What networks are conditioned on: noise as waves, classes as one-hot rows, augmentation labels."""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


class PositionalEmbedding(nn.Module):
    """Map noise [N] to cosines and sines [N, channels] of frequencies that fall from 1 to 1/10000."""

    def __init__(self, channels: int, endpoint: bool = False) -> None:
        super().__init__()
        self.count = channels // 2
        self.last = max(self.count - endpoint, 1)  # the lowest frequency is among them only with `endpoint`

    def forward(self, noise: Tensor) -> Tensor:
        position = torch.arange(self.count, device=noise.device, dtype=torch.float32)
        frequencies = 10_000 ** (-position / self.last)
        return waves(noise.float()[:, None] * frequencies)


def normal(*shape: int, deviation: float = 1.0) -> Tensor:
    """Return normal random numbers; on the meta device, for whose numbers torch would import its compiler, any."""
    empty = torch.empty(shape)
    return empty if empty.is_meta else deviation * empty.normal_()


class FourierEmbedding(nn.Module):
    """Map noise [N] to cosines and sines [N, channels] of fixed random frequencies."""

    freqs: Tensor

    def __init__(self, channels: int, deviation: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", normal(channels // 2, deviation=deviation))

    def forward(self, noise: Tensor) -> Tensor:
        return waves(noise.float()[:, None] * (2 * math.pi * self.freqs.float()))


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Suspend autocast: neighbouring noise levels differ by less than bfloat16 resolves."""
    active = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if active else nullcontext()


def waves(phase: Tensor) -> Tensor:
    """Return the cosines and then the sines [N, 2K] of phases [N, K]."""
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def one_hot(label: Tensor | None, x: Tensor, num_classes: int, dropout: float = 0.0) -> Tensor:
    """Return float32 rows [N, num_classes] for N images `x`: zero for no class (None, a negative entry, dropout)."""
    if label is None:
        return x.new_zeros(x.shape[0], num_classes, dtype=torch.float32)
    label = check_label(label, x, num_classes)
    rows = (label[:, None] == torch.arange(num_classes, device=label.device)).float()
    if dropout:
        rows = rows * (torch.rand(len(rows), 1, device=rows.device) >= dropout)
    return rows


def check_label(label: Tensor, x: Tensor, num_classes: int) -> Tensor:
    """Return the classes [N] of N images `x`; those that are not integers, one an image, are a ValueError.

    So is a class that does not exist, on the CPU; on other devices the check would wait for them.
    """
    if label.shape != x.shape[:1] or label.is_floating_point():
        raise ValueError(f"Labels must be {len(x)} integers, one per image, not {label.dtype} {list(label.shape)}.")
    if label.device.type == "cpu" and not torch.compiler.is_compiling() and bool((label >= num_classes).any()):
        limit = f"classes are 0 to {num_classes - 1}" if num_classes else "this network has no classes"
        raise ValueError(f"The label {int(label.max())} does not exist: {limit}.")
    return label


def add_augmentation(
    embedding: Tensor, augmentation: Tensor | None, layer: nn.Module | None = None, size: int = 0
) -> Tensor:
    """Return an embedding [N, C] with what a layer makes of augmentation labels [N, size] on top."""
    if augmentation is not None and augmentation.shape != (len(embedding), size):
        raise ValueError(f"Augmentation labels must be [{len(embedding)}, {size}], not {list(augmentation.shape)}.")
    return embedding if augmentation is None or layer is None else embedding + layer(augmentation.float())
