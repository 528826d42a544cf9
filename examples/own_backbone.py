"""Your own backbone: any module that predicts from (x, noise, condition, augmentation); here a perceptron."""

from dataclasses import replace
from itertools import count

import torch
from torch import Tensor, nn

import d2o
from d2o.diffusion.families import EDM
from d2o.diffusion.noise import noise_for


class Perceptron(nn.Module):
    """Predicts [N, outputs, 1, 1] from points [N, 2, 1, 1] and the noise number [N]."""

    def __init__(self, outputs: int = 2, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs)
        )

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None, augmentation: Tensor | None = None):
        return self.layers(torch.cat([x.flatten(1), noise[:, None]], 1))[:, :, None, None]


def batches(size: int):  # points of a tilted Gaussian; the index makes their noise reproducible
    for first in count(0, size):
        index = torch.arange(first, first + size)
        points = noise_for(index.tolist(), (2,)) @ torch.tensor([[0.5, 0.3], [0.0, 0.2]])
        yield points[:, :, None, None], None, index


if __name__ == "__main__":
    recipe = replace(d2o.recipes.PRETRAIN, duration=50_000)
    start = d2o.Denoiser(Perceptron(), EDM(), image_shape=(2, 1, 1))
    *_, progress = d2o.train(recipe, d2o.networks(recipe, start), batches(recipe.batch_size))
    made = torch.cat(list(d2o.generate(progress.ema, range(1_000), steps=18))).flatten(1)
    print("covariance, should be near [[.25, .15], [.15, .13]]:", made.T.cov().tolist())
