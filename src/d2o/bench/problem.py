"""What is measured: networks, sizes and images."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from d2o.checkpoints import load
from d2o.data.datasets import Images, open_images
from d2o.diffusion.denoiser import Denoiser
from d2o.training import recipes
from d2o.training.networks import new_denoiser
from d2o.training.recipe import Recipe


@dataclass(frozen=True)
class Problem:
    """What is measured: networks and sizes. `student` is a recipe, of which D2O and D2O-F are made."""

    teacher: Denoiser
    pretrain: Recipe
    student: Recipe

    def recipes(self) -> dict[str, Recipe]:
        """Return the three kinds of training."""
        frozen = self.student.frozen
        return {
            "d2o_f": replace(self.student, frozen=frozen),
            "d2o": replace(self.student, frozen=()),
            "pretrain": self.pretrain,
        }


@dataclass(frozen=True)
class Choice:
    """A problem as people name it: a recipe of D2O-F, a teacher's file, images an iteration.

    Without a teacher it is a small network of random weights for 16x16 images of ten classes.
    """

    recipe: str
    model: str | None = None
    batch: int | None = None

    def problem(self) -> Problem:
        """Return the problem; ValueError if the recipe is of another kind."""
        recipe = recipes.named(self.recipe)
        if "discriminator" not in recipe.needs or not recipe.frozen:
            raise ValueError(f"The recipe {self.recipe} is not one of D2O-F: bench one such as cifar10-small-d2o-f.")
        if self.model is None:
            spec = {**recipes.BACKBONES["small"], "attention_resolutions": [8]}
            teacher = new_denoiser(spec, (3, 16, 16), 10)
        else:
            teacher = load(self.model)
        sizes = {"batch_size": self.batch or recipe.batch_size, "precision": "float32"}
        return Problem(teacher, replace(recipes.PRETRAIN, **sizes), replace(recipe, **sizes))


def noise_images(count: int, shape: tuple[int, int, int], classes: int, folder: Path) -> Images:
    """Return a data set of random pixels: what is in the images does not matter for speed."""
    random = np.random.default_rng(0)
    channels, height, width = shape
    path = folder / f"noise{height}.npz"
    pixels = random.integers(0, 256, (count, height, width, channels), np.uint8)
    if classes:
        np.savez(path, images=pixels, labels=np.arange(count) % classes)
    else:
        np.savez(path, images=pixels)
    return open_images(path)
