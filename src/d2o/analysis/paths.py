"""Where a denoiser is watched: the noisy images x_t that a sampler visits, or real images under as much noise."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import karras_sigmas, noise_for
from d2o.diffusion.sampling import euler_step, heun_step, labels_for, trajectory
from d2o.metrics.counting import Counted, unshown
from d2o.training.networks import check_fit

STEPS = {"euler": euler_step, "heun": heun_step}
FEWEST_STEPS = 4
"""Three changes: fewer have no progression."""


class Path(NamedTuple):
    """A batch at falling noise levels: its labels [N] or None, and pairs (sigma, x [N,C,H,W])."""

    label: Tensor | None
    points: Iterator[tuple[float, Tensor]]


def levels(denoiser: Denoiser, steps: int) -> tuple[float, ...]:
    """Return the noise levels [steps] at which a sampler of so many steps calls the denoiser."""
    if steps < FEWEST_STEPS:
        raise ValueError(f"A progression needs at least {FEWEST_STEPS} --steps, not {steps}.")
    return karras_sigmas(steps, sigma_max=denoiser.sigma_max)[:-1]


def split(seeds: Sequence[int], batch_size: int) -> Iterator[Sequence[int]]:
    """Yield the seeds in batches; fewer than two have no spread, which is a ValueError."""
    if len(seeds) < 2:
        raise ValueError(f"A spread over --seeds needs at least 2 of them, not {len(seeds)}.")
    if batch_size < 1:
        raise ValueError(f"A --batch holds at least one image, not {batch_size}.")
    return (seeds[first : first + batch_size] for first in range(0, len(seeds), batch_size))


@torch.no_grad()
def sampling_paths(
    denoiser: Denoiser,
    seeds: Sequence[int],
    steps: int = 18,
    sampler: str = "heun",
    batch_size: int = 64,
    counted: Counted = unshown,
    who: str = "teacher",
) -> Iterator[Path]:
    """Yield the paths of the images that a denoiser makes from these seeds; image i depends on seed i only.

    `who` is what errors call the denoiser.
    """
    if sampler not in STEPS:
        raise ValueError(f"Unknown sampler {sampler!r}; there are {', '.join(STEPS)}.")
    sigmas, device = (*levels(denoiser, steps), 0.0), device_of(denoiser)
    for part in counted(split(seeds, batch_size), len(seeds), "from noise to images"):
        noise, label = noise_for(part, denoiser.image_shape, device), labels_for(part, denoiser.num_classes)
        label = None if label is None else label.to(device)
        points = trajectory(
            lambda x, sigma, c=label: predict(denoiser, x, sigma, c, who), noise, sigmas, STEPS[sampler]
        )
        yield Path(label, zip(sigmas[:-1], points, strict=False))


@torch.no_grad()
def noising_paths(
    denoiser: Denoiser,
    images: Images,
    seeds: Sequence[int],
    steps: int = 18,
    batch_size: int = 64,
    counted: Counted = unshown,
) -> Iterator[tuple[Path, Tensor]]:
    """Yield the paths x0 + sigma_t noise of as many real images, and x0 [N,C,H,W]; image i has the noise of seed i.

    Where there are fewer images than seeds, each is taken once: a second time it would be no other image.
    """
    check_fit(denoiser, images)
    seeds = seeds[: len(images)]
    sigmas, device = levels(denoiser, steps), device_of(denoiser)
    stream = images.batches(batch_size)
    for part, batch in zip(counted(split(seeds, batch_size), len(seeds), "real images"), stream, strict=False):
        x0 = denoiser.encode(batch.x0[: len(part)].to(device))
        label = batch.label[: len(part)].to(device) if batch.label is not None and denoiser.num_classes else None
        noise = noise_for(part, denoiser.image_shape, device)
        yield Path(label, ((sigma, x0 + sigma * noise) for sigma in sigmas)), x0


@torch.no_grad()
def predict(denoiser: Denoiser, x: Tensor, sigma: float, label: Tensor | None, who: str) -> Tensor:
    """Return D(x, sigma, label) in evaluation mode; NaN or infinity is a ValueError that names who gave it."""
    with evaluation_mode(denoiser):
        x0 = denoiser(x, sigma, label)
    if not x0.isfinite().all():
        raise ValueError(
            f"The {who} gives NaN or infinite values at sigma {sigma:.3g}: its weights are broken, or its training "
            "diverged; use an earlier checkpoint."
        )
    return x0


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Keep a network in evaluation mode within the context, and give every part its own mode back."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def device_of(denoiser: Denoiser) -> torch.device:
    """Return where a denoiser's weights are."""
    return next((parameter.device for parameter in denoiser.parameters()), torch.device("cpu"))
