"""Filters of one band of frequencies: on a block's output, on the finished image, on the gradient."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from d2o.analysis.frequency import Band, octaves, rings
from d2o.analysis.network import watch_blocks
from d2o.analysis.paths import predict
from d2o.diffusion.denoiser import Denoiser

IMAGE = "image"
"""The place of a filter on the finished image: how much the measure itself changes."""


def filter_band(images: Tensor, band: Band, keep: bool) -> Tensor:
    """Return images [N, C, H, W] with nothing but one band (`keep`), or with everything else; gradients pass."""
    ring = rings(*images.shape[-2:]).to(images.device)
    inside = (ring >= band.low) & (ring <= band.high)
    transformed = torch.fft.fft2(images.float()) * (inside if keep else ~inside)
    return torch.fft.ifft2(transformed).real.to(images.dtype)


def filter_tokens(value: Tensor, band: Band, keep: bool) -> Tensor:
    """Return a block's output filtered: a map [N, C, h, w], or the tokens [N, side * side, C] of one."""
    if not isinstance(value, Tensor) or value.ndim not in (3, 4):
        raise ValueError(f"A block gives a {type(value).__name__} that cannot be filtered: let it return a map.")
    if value.ndim == 4:
        return filter_band(value, band, keep)
    side = math.isqrt(value.shape[1])
    image = value.transpose(1, 2).unflatten(2, (side, side))
    return filter_band(image, band, keep).flatten(2).transpose(1, 2)


@contextmanager
def filter_output(student: Denoiser, place: str, band: Band, keep: bool) -> Iterator[None]:
    """Filter the output of a block, or of the whole denoiser, within the context."""
    module = student if place == IMAGE else student.backbone.get_submodule(place)
    handle = module.register_forward_hook(lambda *call: filter_tokens(call[2], band, keep))
    try:
        yield
    finally:
        handle.remove()


def filter_gradient(student: Denoiser, band: Band, keep: bool) -> None:
    """Filter every gradient that reaches the student's images from now on."""

    def hook(_: nn.Module, __: tuple, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: filter_band(gradient, band, keep))

    student.register_forward_hook(hook)


def bands_of(student: Denoiser) -> dict[str, list[Band]]:
    """Return the octaves of the image, and of the map of every block."""
    x = torch.zeros(1, *student.image_shape, device=student.device)
    label = torch.zeros(1, dtype=torch.long, device=x.device) if student.num_classes else None
    with torch.no_grad(), watch_blocks(student.backbone) as seen:
        predict(student, x, student.sigma_max, label, "student")
    sizes = {IMAGE: student.image_shape[1:], **{name: left.shape[-2:] for name, (_, left) in seen.items()}}
    return {name: octaves(int(rings(*size).max()) + 1) for name, size in sizes.items()}
