"""A sampler walks a list of sigmas. A one-step generator is the same walk with one interval: (80, 0)."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from d2o.devices import widen

from .condition import Asked, Condition, Text, TextWidth, choose_condition
from .denoiser import Denoiser, Guided, use_full_float32
from .families import Preconditioning
from .noise import ONE_STEP, draw, streams

Denoise = Callable[[Tensor, Any], Tensor]
"""x [N,C,H,W], sigma -> x0 [N,C,H,W]: a denoiser whose condition is already chosen."""
Step = Callable[[Denoise, Tensor, Any, Any], Tensor]
"""denoise, x, sigma, sigma_next -> the x at sigma_next."""
Level = float | Tensor
"""One noise level for all images, or a tensor [N,1,1,1] of one for each."""


def euler_step(denoise: Denoise, x: Tensor, sigma: Level, sigma_next: Level) -> Tensor:
    """Move x in a straight line towards its denoised image; exactly that image at `sigma_next` = 0."""
    x0 = denoise(x, sigma)
    return x0 + (sigma_next / sigma) * (x - x0)


def heun_step(denoise: Denoise, x: Tensor, sigma: Level, sigma_next: Level) -> Tensor:
    """Move x along the mean of the slopes at both ends: second order (arXiv 2206.00364, algorithm 1).

    A tensor `sigma_next` must be positive; the number 0 is reached by an Euler step.
    """
    if not isinstance(sigma_next, Tensor) and sigma_next == 0:
        return euler_step(denoise, x, sigma, sigma_next)
    slope = (x - denoise(x, sigma)) / sigma
    guess = x + (sigma_next - sigma) * slope
    slope_there = (guess - denoise(guess, sigma_next)) / sigma_next
    return x + (sigma_next - sigma) * (slope + slope_there) / 2


def heun_step_in_time(denoise: Denoise, x: Tensor, sigma: Level, sigma_next: Level) -> Tensor:
    """Move x by Heun's rule in the time t = sigma / (1 + sigma) of flows, along x / (1 + sigma) = (1 - t) x0 + t noise.

    Its velocity, noise - x0, stays finite where sigma does not, so that the first step may start from pure noise.
    A tensor `sigma_next` must be positive; the number 0 is reached by an Euler step.
    """
    x0 = denoise(x, sigma)
    if not isinstance(sigma_next, Tensor) and sigma_next == 0:
        return x0
    noise = (x - x0) / sigma
    guess = x0 + sigma_next * noise
    x0_there = denoise(guess, sigma_next)
    velocity = (noise - x0 + (guess - x0_there) / sigma_next - x0_there) / 2
    passed = sigma_next / (1 + sigma_next) - sigma / (1 + sigma)
    return (x / (1 + sigma) + passed * velocity) * (1 + sigma_next)


def renoise_step(generators: Sequence[np.random.Generator]) -> Step:
    """Return a step that jumps to the clean image and adds fresh noise: few-step sampling of one-step generators.

    One generator an image, so that every image depends on its own seed only (arXiv 2303.01469, algorithm 1).
    """

    def step(denoise: Denoise, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        x0 = denoise(x, sigma)
        return x0 + sigma_next * draw(generators, x.shape[1:], x.device) if sigma_next else x0

    return step


class Churn(NamedTuple):
    """How much fresh noise the stochastic sampler adds before each step (arXiv 2206.00364, algorithm 2)."""

    amount: float = 40.0
    sigma_min: float = 0.05
    sigma_max: float = 50.0
    inflation: float = 1.003


def add_churn(step: Step, churn: Churn, intervals: int, generators: Sequence[np.random.Generator]) -> Step:
    """Return `step` preceded by a rise in noise level: the stochastic variant of any sampler."""
    rise = 1 + min(churn.amount / intervals, 2**0.5 - 1)

    def noisier_step(denoise: Denoise, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        if churn.sigma_min <= sigma <= churn.sigma_max:
            raised = rise * sigma
            noise = draw(generators, x.shape[1:], x.device)
            x = x + (raised**2 - sigma**2) ** 0.5 * churn.inflation * noise
            sigma = raised
        return step(denoise, x, sigma, sigma_next)

    return noisier_step


def heun_step_of(family: Preconditioning) -> Step:
    """Return Heun's step in the time in which a family's paths are nearly straight."""
    return heun_step_in_time if family.solved_in_time else heun_step


def trajectory(
    denoise: Denoise, noise: Tensor, sigmas: Sequence[float] = ONE_STEP, step: Step = euler_step
) -> Iterator[Tensor]:
    """Yield x at every one of `sigmas`, from `sigmas[0] * noise` on, accumulated in float64 where there is one."""
    x = widen(noise) * sigmas[0]
    yield x
    for sigma, sigma_next in pairwise(sigmas):
        x = step(denoise, x, sigma, sigma_next)
        yield x


def sample(denoise: Denoise, noise: Tensor, sigmas: Sequence[float] = ONE_STEP, step: Step = euler_step) -> Tensor:
    """Walk from unit noise [N,C,H,W] to images [N,C,H,W] of the noise's type.

    The default is one call of the denoiser; `karras_sigmas(18)` with `heun_step` is EDM's sampler (35 calls).
    """
    *_, x = trajectory(denoise, noise, sigmas, step)
    return x.to(noise.dtype)


SAMPLERS = ("heun", "euler", "renoise")


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    seeds: Sequence[int],
    *,
    steps: int = 1,
    condition: Asked = None,
    sampler: str = "heun",
    churn: Churn | None = None,
    middle_sigmas: Sequence[float] | None = None,
    guidance: float = 1.0,
    batch_size: int = 64,
) -> Iterator[Tensor]:
    """Yield batches of images [n,C,H,W] float32 in about [-1, 1]; image i depends on `seeds[i]` and its condition.

    Sampling starts at the denoiser's `sigma_max`; latent images are decoded.
    `condition` is one class, its name, or one caption for all, or one a seed; by default image i of a conditional model
    gets class `seed modulo num_classes`, or one of the captions that the model knows as examples. `sampler` "renoise"
    visits `sigma_max` and then `middle_sigmas`, or the family's. A generator of several steps visits its own middle
    sigmas by "renoise" where neither these nor `steps` are given. `guidance` is the scale of classifier-free guidance,
    which takes two calls of the denoiser unless it is 1.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"Unknown sampler {sampler!r}; there are {', '.join(SAMPLERS)}.")
    if batch_size < 1:
        raise ValueError(f"A batch has at least one image, not {batch_size}.")
    if churn is not None and not churn.amount >= 0:
        raise ValueError(f"Churn adds noise: its amount is 0 or more, not {churn.amount}.")
    family, batches = denoiser.preconditioning, range(0, len(seeds), batch_size)
    parts = [slice(first, first + batch_size) for first in batches]
    rows = conditions_for(denoiser, seeds, condition, parts)
    predict = denoiser if guidance == 1 else Guided(denoiser, guidance)
    if middle_sigmas is None and steps == 1:
        middle_sigmas, sampler = denoiser.middle_sigmas, "renoise" if denoiser.middle_sigmas else sampler
    middle_sigmas = tuple(middle_sigmas or ())
    sigmas = (family.sigma_max, *middle_sigmas, 0.0) if middle_sigmas else family.sigmas(steps)
    if not all(sigma > sigma_next for sigma, sigma_next in pairwise(sigmas)):
        raise ValueError(f"Middle sigmas fall from {family.sigma_max:g} towards 0; {middle_sigmas} do not.")
    use_full_float32()
    for part, row in zip(parts, rows, strict=True):
        generators = streams(seeds[part])
        noise = draw(generators, denoiser.image_shape, denoiser.device)
        here = None if row is None else row.to(noise.device)
        step = {"heun": heun_step_of(family), "euler": euler_step, "renoise": renoise_step(generators)}[sampler]
        if churn is not None:
            step = add_churn(step, churn, len(sigmas) - 1, generators)
        yield denoiser.decode(sample(lambda x, sigma, c=here: predict(x, sigma, c), noise, sigmas, step))


def conditions_for(
    denoiser: Denoiser, seeds: Sequence[int], asked: Asked, parts: Sequence[slice]
) -> Iterator[Condition | None]:
    """Return the condition of each part of the seeds; text is encoded when its part comes, as it may be large."""
    wanted: Any = asked  # taken apart only where it is a list
    each, is_told_text = isinstance(asked, list | tuple), isinstance(denoiser.vocabulary, TextWidth)
    if not is_told_text or isinstance(asked, Text) or (each and len(wanted) != len(seeds)):
        rows = condition_for(denoiser, seeds, asked)
        return (None if rows is None else rows[part] for part in parts)
    return (condition_for(denoiser, seeds[part], wanted[part] if each else wanted) for part in parts)


def condition_for(denoiser: Denoiser, seeds: Sequence[int], asked: Asked = None) -> Any:
    """Return the condition of every seed, as `choose_condition` does, for this model."""
    names, reader = denoiser.class_names, denoiser.reader
    if isinstance(denoiser.vocabulary, TextWidth) and reader is None and not isinstance(asked, Text):
        raise ValueError(
            "This model needs text embeddings, but has no text encoders: open the folder of its whole pipeline, "
            "or give a d2o.diffusion.Text as the condition."
        )
    return choose_condition(seeds, denoiser.num_classes, asked, reader=reader, class_names=names)
