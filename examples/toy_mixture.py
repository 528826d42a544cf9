"""Eight Gaussians in the plane with a known exact denoiser: pre-train, make it one-step, count samples near them."""

from dataclasses import replace
from itertools import count

import torch
from own_backbone import Perceptron
from own_discriminator import Critic

import d2o
from d2o.diffusion.families import EDM
from d2o.diffusion.noise import karras_sigmas, noise_for
from d2o.diffusion.sampling import heun_step

ANGLES = torch.arange(8) * torch.pi / 4
MODES, SPREAD = 0.7 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1), 0.1
RATES = {"learning_rate": 3e-3, "discriminator_learning_rate": 3e-3, "learning_rate_decay": "linear"}
SETTINGS = {"batch_size": 256, "duration": 120_000, **RATES}


def batches(first=0):
    for start in count(first, 256):
        index = torch.arange(start, start + 256)
        yield (MODES[index % 8] + SPREAD * noise_for(index.tolist(), (2,)))[:, :, None, None], None, index


def exact(x, sigma):  # the posterior mean of the mixture
    variance, modes = SPREAD**2 + sigma**2, MODES.to(x.dtype)
    weight = (-(torch.cdist(x.flatten(1), modes) ** 2) / (2 * variance)).softmax(1)
    return x + sigma**2 / variance * (weight @ modes - x.flatten(1))[:, :, None, None]


if __name__ == "__main__":
    teacher, noise = d2o.Denoiser(Perceptron(), EDM(), (2, 1, 1)), noise_for(range(2_000), (2, 1, 1))
    *_, last = d2o.train(r := replace(d2o.recipes.PRETRAIN, **SETTINGS), d2o.networks(r, teacher), batches())
    rows = {"truth, 35 calls": exact, "teacher, 35 calls": last.ema, "teacher, 1 call": last.ema}
    *_, last = d2o.train(r := replace(d2o.recipes.D2O, **SETTINGS), d2o.networks(r, last.ema, Critic(2)), batches())
    for name, denoise in {**rows, "student, 1 call": last.ema}.items():
        made = d2o.sample(denoise, noise, *([karras_sigmas(18), heun_step] if "35" in name else [])).detach()
        print(f"{name}: {(torch.cdist(made.flatten(1), MODES).amin(1) < 3 * SPREAD).float().mean():.1%} near a mode")
