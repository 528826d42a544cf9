"""Where a denoiser is watched: the noisy images x_t that a sampler visits, or real images with as much noise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser, evaluation_mode
from d2o.diffusion.noise import noise_for
from d2o.diffusion.sampling import Step, condition_for, euler_step, heun_step_of, trajectory
from d2o.errors import Diverged
from d2o.metrics.counting import Counted, unshown
from d2o.objectives.batch import read_batch

SAMPLERS = ("euler", "heun")


@dataclass(frozen=True)
class Sampling:
    """Which images a denoiser makes while it is watched, and how; image i depends on seed i only."""

    seeds: Sequence[int] = range(64)
    steps: int = 18
    sampler: str = "heun"
    batch_size: int = 64
    counted: Counted = unshown

    def __post_init__(self) -> None:
        least = {"steps": (self.steps, 4), "seeds": (len(self.seeds), 2), "batch": (self.batch_size, 1)}
        for option, (value, minimum) in least.items():
            if value < minimum:
                raise ValueError(f"--{option}: the progression needs at least {minimum}, not {value}.")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"Unknown sampler {self.sampler!r}; there are {', '.join(SAMPLERS)}.")

    def levels(self, denoiser: Denoiser) -> tuple[float, ...]:
        """Return the noise levels [steps] that the sampler visits."""
        return denoiser.preconditioning.sigmas(self.steps)[:-1]

    def step(self, denoiser: Denoiser) -> Step:
        return heun_step_of(denoiser.preconditioning) if self.sampler == "heun" else euler_step

    def batches(self, count: int, title: str) -> Iterator[Sequence[int]]:
        seeds = self.seeds[:count]
        parts = (seeds[first : first + self.batch_size] for first in range(0, len(seeds), self.batch_size))
        return self.counted(parts, len(seeds), title)


class Path(NamedTuple):
    """A batch at falling noise levels: its condition or None, and pairs (sigma, x [N,C,H,W])."""

    condition: Tensor | None
    points: Iterator[tuple[float, Tensor]]


@torch.no_grad()
def sampling_paths(teacher: Denoiser, sampling: Sampling) -> Iterator[Path]:
    """Yield the paths of the images that a teacher makes."""
    sigmas, device = (*sampling.levels(teacher), 0.0), teacher.device
    for seeds in sampling.batches(len(sampling.seeds), "from noise to images"):
        noise, condition = noise_for(seeds, teacher.image_shape, device), condition_for(teacher, seeds)
        condition = None if condition is None else condition.to(device)
        denoise = partial(predict, teacher, condition=condition, who="teacher")
        points = trajectory(denoise, noise, sigmas, sampling.step(teacher))
        yield Path(condition, zip(sigmas[:-1], points, strict=False))


@torch.no_grad()
def noising_paths(denoiser: Denoiser, images: Images, sampling: Sampling) -> Iterator[tuple[Path, Tensor]]:
    """Yield the paths x0 + sigma_t noise of real images, each at most once, and x0 [N,C,H,W]; seed i is image i's."""
    sigmas, device = sampling.levels(denoiser), denoiser.device
    stream = images.batches(sampling.batch_size)
    for seeds, batch in zip(sampling.batches(len(images), "real images"), stream, strict=False):
        real = read_batch(batch, denoiser).split(len(seeds))[0]
        x0 = real.latents_for(denoiser)
        noise = noise_for(seeds, denoiser.image_shape, device)
        yield Path(real.condition, ((sigma, x0 + sigma * noise) for sigma in sigmas)), x0


@torch.no_grad()
def predict(denoiser: Denoiser, x: Tensor, sigma: float, condition: Tensor | None, who: str) -> Tensor:
    """Return D(x, sigma, condition) in evaluation mode; NaN or infinity is a Diverged that names `who`."""
    with evaluation_mode(denoiser):
        x0 = denoiser(x, sigma, condition)
    if not x0.isfinite().all():
        raise Diverged(f"The {who} returns NaN or infinity at sigma {sigma:.3g}")
    return x0
