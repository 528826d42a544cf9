"""Your own discriminator: `judge` turns features into logits; without frozen features they are the images."""

from dataclasses import replace

from torch import Tensor, nn

import d2o
from d2o.discriminators import Discriminator


class Critic(Discriminator):
    """Judges images of any shape by a perceptron on their pixels."""

    def __init__(self, pixels: int, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(pixels, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)
        )

    def judge(self, features: list, condition: Tensor | None = None) -> list[Tensor]:
        return [self.layers(images.flatten(1)) for (images,) in features]


if __name__ == "__main__":
    digits = d2o.images("digits", labels="none")
    teacher = d2o.untrained({**d2o.recipes.BACKBONES["tiny"], "attention_resolutions": [4]}, digits.shape)
    recipe = replace(d2o.recipes.D2O, duration=1_280)
    networks = d2o.networks(recipe, teacher, discriminator=Critic(pixels=64))
    for progress in d2o.train(recipe, networks, digits.batches(recipe.batch_size)):
        print(progress.images, progress.losses)
