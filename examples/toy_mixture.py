"""Eight Gaussians in the plane, with the exact denoiser as the truth: pre-train, make it one-step, count modes."""

from dataclasses import replace
from itertools import count

import torch
from own_backbone import Perceptron
from own_discriminator import Critic

import d2o
from d2o.diffusion.noise import karras_sigmas, noise_for
from d2o.diffusion.preconditioning import EDM
from d2o.diffusion.sampling import heun_step

ANGLES = torch.arange(8) * torch.pi / 4
MODES, SPREAD = 0.7 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1), 0.05


def batches(size: int):
    for first in count(0, size):
        index = torch.arange(first, first + size)
        yield (MODES[index % 8] + SPREAD * noise_for(index.tolist(), (2,)))[:, :, None, None], None, index


def exact(x, sigma):  # the posterior mean of the mixture
    variance, points = SPREAD**2 + sigma**2, x.flatten(1)
    weight = (-torch.cdist(points, MODES.to(x.dtype)) ** 2 / (2 * variance)).softmax(1)
    return x + sigma**2 / variance * (weight @ MODES.to(x.dtype) - points)[:, :, None, None]


def train(recipe, start, **own) -> d2o.Denoiser:
    *_, progress = d2o.train(recipe, d2o.networks(recipe, start, **own), batches(recipe.batch_size))
    return progress.ema


def near(x) -> float:  # share of points within three deviations of a mode
    return (torch.cdist(x.flatten(1), MODES).amin(1) < 3 * SPREAD).float().mean().item()


if __name__ == "__main__":
    rates = {"learning_rate": 2e-3, "discriminator_learning_rate": 2e-3, "learning_rate_decay": "linear"}
    settings = {"batch_size": 256, "duration": 100_000, **rates}
    start = d2o.Denoiser(Perceptron(), EDM(), image_shape=(2, 1, 1))
    teacher = train(replace(d2o.recipes.PRETRAIN, **settings), start)
    student = train(replace(d2o.recipes.D2O, **settings), teacher, discriminator=Critic(pixels=2))
    noise = noise_for(range(2_000), (2, 1, 1))
    with torch.no_grad():
        print(f"truth, 35 calls:   {near(d2o.sample(exact, noise, karras_sigmas(18), heun_step)):.1%} near a mode")
        print(f"teacher, 35 calls: {near(d2o.sample(teacher, noise, karras_sigmas(18), heun_step)):.1%}")
        print(f"teacher, 1 call:   {near(d2o.sample(teacher, noise)):.1%}")
        print(f"student, 1 call:   {near(d2o.sample(student, noise)):.1%}")
