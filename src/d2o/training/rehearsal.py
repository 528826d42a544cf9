"""Rehearse a preset of the paper at full architecture size with random weights: does everything fit together?

On the meta device nothing is computed and no memory is taken: shapes alone go through every network and loss. On a
real device the same networks take real steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from d2o import backbones
from d2o.compute.operations import Operations
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.preconditioning import Epsilon
from d2o.discriminators import Perceptual, Projected
from d2o.objectives import Adversarial, Denoising
from d2o.objectives.distance import Lpips
from d2o.objectives.objective import Batch, Networks

from .freezing import Share
from .loop import train, turns
from .networks import networks, new_denoiser, share
from .recipe import Recipe
from .recipes import BACKBONES, DATA, RECIPES, named

DIT = {"kind": "dit", "channels": 1152, "num_blocks": 28, "num_heads": 16, "patch_size": 2, "num_classes": 1000}
SMALL = ("digits", "cifar10-small")
PRESETS = tuple(name for name in RECIPES if name.startswith((*DATA, "dit-")) and not name.startswith(SMALL))
"""The recipes of full-size networks."""


@dataclass(frozen=True)
class Rehearsal:
    """What was seen: frozen and all parameters of the student, those of the discriminator, and every turn.

    `losses` are the last ones, on a real device. `operations` counts multiplications and additions of matrix products
    and convolutions an image, on the meta device; those of R1 are spread over the iterations between.
    """

    share: Share
    discriminator: int
    turns: tuple[str, ...]
    losses: dict[str, float]
    operations: float | None = None


class Stretch:
    """Stands in for the autoencoder of latent models: pixels are the first three channels, eight times as large."""

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [N,4,h,w] of images [N,3,8h,8w]."""
        small = torch.nn.functional.avg_pool2d(images, 8)
        return torch.cat([small, small[:, :1]], 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [N,3,8h,8w] of latents [N,4,h,w]."""
        return torch.nn.functional.interpolate(latents[:, :3], scale_factor=8)

    def pixel_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape of the images of latents of this shape."""
        return 3, 8 * latent_shape[1], 8 * latent_shape[2]


def rehearse(name: str, device: str = "meta", iterations: int = 2, batch_size: int = 2) -> Rehearsal:
    """Go through every turn of a preset with random weights everywhere; on a real device, train so many iterations."""
    recipe = with_random_weights(named(name))
    recipe = replace(recipe, batch_size=batch_size, micro_batch_size=None, duration=iterations * batch_size)
    with torch.device(device):
        made = networks(recipe, teacher(name, recipe))
    critic: Any = made.discriminator
    size = 0 if critic is None else sum(p.numel() for p in critic.parameters() if p.requires_grad)
    if device == "meta":
        spent = shapes_alone(recipe, made)
        every = {"r1": next((o.r1_every for o in named(name).objectives if isinstance(o, Adversarial)), 1)}
        operations = sum(count / batch_size / every.get(turn, 1) for turn, count in spent.items())
        return Rehearsal(share(made), size, tuple(spent), {}, operations)
    *_, progress = train(recipe, made, noise_stream(made.student, batch_size))
    return Rehearsal(share(made), size, tuple(progress.losses), dict(progress.losses))


def with_random_weights(recipe: Recipe) -> Recipe:
    """Return the recipe with random weights, R1 in every iteration, in float32, without augmentation."""
    critic = recipe.discriminator
    if isinstance(critic, Projected | Perceptual):
        critic = replace(critic, weights="random")
    objectives = []
    for objective in recipe.objectives:
        if isinstance(objective, Adversarial):
            objective = replace(objective, r1_every=1)
        elif isinstance(objective, Denoising):  # which images are warped is no matter of shapes
            objective = replace(objective, augmentation=None)
        elif isinstance(distance := getattr(objective, "distance", None), Lpips):
            objective = replace(objective, distance=replace(distance, weights="random"))  # type: ignore[call-arg]
        objectives.append(objective)
    return replace(recipe, discriminator=critic, objectives=tuple(objectives), precision="float32")


def teacher(name: str, recipe: Recipe) -> Denoiser:
    """Return the untrained network that a preset is for."""
    for start, data in DATA.items():
        if name.startswith(start):
            own = RECIPES.get(f"{start}-pretrain", recipe).backbone
            spec = recipe.backbone or own or BACKBONES[data.backbone]
            return new_denoiser(spec, data.image_shape, data.num_classes)
    backbone = backbones.build({**DIT, "resolution": 32, "in_channels": 4, "out_channels": 4})
    denoiser = Denoiser(backbone, Epsilon(), (4, 32, 32), 1000)
    denoiser.codec = Stretch()
    return denoiser


def shapes_alone(recipe: Recipe, made: Networks) -> dict[str, int]:
    """Send a batch of shapes through the losses and gradients of every turn; return the operations of each."""
    images = torch.empty(recipe.batch_size, *made.student.pixel_shape, device="meta")
    classes = made.student.num_classes
    label = torch.empty(recipe.batch_size, dtype=torch.long, device="meta") if classes else None
    batch = Batch(images, label, range(recipe.batch_size), recipe.seed)
    spent = {}
    for turn in turns(recipe, made):
        with Operations() as counter:
            loss = turn.loss(made, batch)
            assert loss.shape == (recipe.batch_size,), f"{turn.name} is not a loss an image but {tuple(loss.shape)}"
            loss.mean().backward()
        spent[turn.name] = counter.total
    return spent


def noise_stream(student: Denoiser, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Yield batches of noise in the place of images."""
    start = 0
    while True:
        index = torch.arange(start, start + batch_size)
        images = torch.rand(batch_size, *student.pixel_shape) * 2 - 1
        yield images, index % student.num_classes if student.num_classes else None, index
        start += batch_size
