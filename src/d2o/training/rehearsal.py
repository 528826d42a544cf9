"""Rehearse a preset of the paper at full architecture size with random weights: does everything fit together?

On the meta device nothing is computed and no memory is taken: shapes alone go through every network and loss. On a
real device the same networks take real steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from d2o import backbones
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import Epsilon
from d2o.discriminators import Perceptual, Projected
from d2o.kernels.operations import Operations
from d2o.objectives import Adversarial, Denoising, Progressive
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


@dataclass(frozen=True)
class RandomDecoder:
    """Stable Diffusion's autoencoder with random weights: what latent models are judged through."""

    device: str

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [N,4,h,w] of images [N,3,8h,8w]."""
        return stable_diffusion(self.device).encode(images).latent_dist.mode().detach()

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [N,3,8h,8w] of latents [N,4,h,w]."""
        return stable_diffusion(self.device).decode(latents).sample

    def pixel_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape of the images of latents of this shape."""
        return 3, 8 * latent_shape[1], 8 * latent_shape[2]


@lru_cache(maxsize=1)
def stable_diffusion(device: str) -> Any:
    """Return the autoencoder, frozen; its decoder runs again for the gradient, as `Autoencoder`'s does."""
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise ValueError("Latent images need diffusers: pip install -e '.[diffusers]' in d2o's folder.") from error
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    settings: dict[str, Any] = {**levels, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    with torch.device(device):
        network = AutoencoderKL(**settings)
    network.eval().requires_grad_(False).enable_gradient_checkpointing()
    return network


def rehearse(
    name: str, device: str = "meta", iterations: int = 2, batch_size: int = 2, precision: str | None = None
) -> Rehearsal:
    """Go through every turn of a preset with random weights everywhere; on a real device, train so many iterations.

    `precision` replaces the preset's, for processors that take minutes to emulate it.
    """
    recipe = shortened(with_random_weights(named(name)))
    recipe = replace(recipe, precision=precision or recipe.precision)
    if device == "meta":  # nothing is computed there, so rounding and warping are no matter
        recipe = replace(without_augmentation(recipe), precision="float32")
    micro = 1 if recipe.micro_batch_size else None
    recipe = replace(recipe, batch_size=batch_size, micro_batch_size=micro, duration=iterations * batch_size)
    with torch.device(device):
        made = networks(recipe, teacher(name, recipe, device))
    critic: Any = made.discriminator
    size = 0 if critic is None else sum(p.numel() for p in critic.parameters() if p.requires_grad)
    if device == "meta":
        spent = shapes_alone(recipe, made)
        every = {"r1": next((o.r1_every for o in named(name).objectives if isinstance(o, Adversarial)), 1)}
        operations = sum(count / every.get(turn, 1) for turn, count in spent.items())
        return Rehearsal(share(made), size, tuple(spent), {}, operations)
    *_, progress = train(recipe, made, noise_stream(made.student, batch_size))
    return Rehearsal(share(made), size, tuple(progress.losses), dict(progress.losses))


def with_random_weights(recipe: Recipe) -> Recipe:
    """Return the recipe with random weights in its frozen networks."""
    critic = recipe.discriminator
    if isinstance(critic, Projected | Perceptual):
        critic = replace(critic, weights="random")
    objectives = [
        replace(objective, distance=replace(distance, weights="random"))  # type: ignore[call-arg]
        if isinstance(distance := getattr(objective, "distance", None), Lpips)
        else objective
        for objective in recipe.objectives
    ]
    return replace(recipe, discriminator=critic, objectives=tuple(objectives))


def shortened(recipe: Recipe) -> Recipe:
    """Return the recipe with R1 in every iteration and two rounds of progressive distillation: all that a run does."""
    objectives = [
        replace(objective, r1_every=1)
        if isinstance(objective, Adversarial)
        else replace(objective, steps=4)
        if isinstance(objective, Progressive)
        else objective
        for objective in recipe.objectives
    ]
    return replace(recipe, objectives=tuple(objectives))


def without_augmentation(recipe: Recipe) -> Recipe:
    """Return the recipe with images as they are; its network still takes augmentation labels where it did."""
    objectives = [
        replace(objective, augmentation=None) if isinstance(objective, Denoising) else objective
        for objective in recipe.objectives
    ]
    return replace(recipe, objectives=tuple(objectives))


def teacher(name: str, recipe: Recipe, device: str = "cpu") -> Denoiser:
    """Return the untrained network that a preset is for."""
    augmented = any(isinstance(o, Denoising) and o.augmentation for o in RECIPES.get(name, recipe).objectives)
    for start, data in DATA.items():
        if name.startswith(start):
            own = RECIPES.get(f"{start}-pretrain", recipe).backbone
            spec = recipe.backbone or own or BACKBONES[data.backbone]
            return new_denoiser(spec, data.image_shape, data.num_classes, augmentation=augmented)
    backbone = backbones.build({**DIT, "resolution": 32, "in_channels": 4, "out_channels": 4})
    denoiser = Denoiser(backbone, Epsilon(), (4, 32, 32), 1000)
    denoiser.codec = RandomDecoder(device)
    return denoiser


def shapes_alone(recipe: Recipe, made: Networks) -> dict[str, float]:
    """Send a batch of shapes through the losses and gradients of every turn; return the operations of each an image.

    Of images that are made in several steps, one is judged after each.
    """
    stages = max(len(made.student.middle_sigmas) + 1, 2)
    images = torch.empty(stages, *made.student.pixel_shape, device="meta")
    label = torch.empty(stages, dtype=torch.long, device="meta") if made.student.num_classes else None
    stage = Batch(images[:1], None, range(1000), recipe.seed).choices("generator stage", stages)
    batch = Batch(images, label, [stage.index(k) for k in range(stages)], recipe.seed)
    spent = {}
    for turn in turns(recipe, made):
        with Operations() as counter:
            loss = turn.loss(made, batch)
            assert loss.shape == (stages,), f"{turn.name} is not a loss an image but {tuple(loss.shape)}"
            loss.mean().backward()
        spent[turn.name] = counter.total / stages
    return spent


def noise_stream(student: Denoiser, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Yield batches of noise in the place of images."""
    start = 0
    while True:
        index = torch.arange(start, start + batch_size)
        images = torch.rand(batch_size, *student.pixel_shape) * 2 - 1
        yield images, index % student.num_classes if student.num_classes else None, index
        start += batch_size
