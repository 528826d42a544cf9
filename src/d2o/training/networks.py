"""Make the networks of a run: the student with its average, and what its objectives want beside it."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch

from d2o import backbones
from d2o.data.augmentation import AUGMENTATION_DIM
from d2o.data.codec import Autoencoder, check_pixels
from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, Boundary, Preconditioning
from d2o.kernels.switch import Switch
from d2o.objectives import Adversarial, Consistency, Denoising, Progressive
from d2o.objectives.distance import Lpips
from d2o.objectives.objective import Discriminator, Networks
from d2o.objectives.trajectory import SECOND_TIME, ReverseConsistency, Trajectory

from .freezing import Share, freeze
from .recipe import Recipe, to_dict

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def networks(recipe: Recipe, teacher: Denoiser, discriminator: Discriminator | None = None) -> Networks:
    """Return the networks of a run that starts from `teacher`, which itself is left as it is.

    A recipe that is not `pretrained` takes from it the architecture only (see `new_denoiser`). A `discriminator` of
    your own takes the place of the recipe's.
    """
    if not isinstance(teacher, Denoiser):
        raise ValueError(
            f"A run starts from a denoiser, not {type(teacher).__name__}: load a teacher with d2o.load, or make an "
            f"untrained one with d2o.untrained."
        )
    student = deepcopy(teacher) if recipe.pretrained else untrained(teacher, recipe.seed)
    if any(isinstance(objective, Trajectory | ReverseConsistency) for objective in recipe.objectives):
        student.backbone = backbones.widened(student.backbone, SECOND_TIME)
    student.preconditioning = started(student.preconditioning, recipe)
    student.middle_sigmas = next(
        (objective.middle_sigmas for objective in recipe.objectives if isinstance(objective, Adversarial)), ()
    )
    if student.middle_sigmas and student.middle_sigmas[0] >= student.sigma_max:
        raise ValueError(
            f"The recipe's middle_sigmas begin with {student.middle_sigmas[0]:g}, but this model starts from "
            f"{student.sigma_max:g}: name smaller ones with --set 'objectives.0.middle_sigmas=[0.8]'."
        )
    student.provenance = {"recipe": to_dict(recipe), "from": teacher.provenance}
    if isinstance(student.codec, Autoencoder):
        student.codec = replace(student.codec, precision=recipe.precision)
    student.precision = PRECISIONS[recipe.precision]
    if not Switch.plain:
        student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    freeze(student, recipe.frozen)
    ema = deepcopy(student).eval().requires_grad_(False)
    student.train(any(objective.dropout for objective in recipe.objectives))
    if "discriminator" in recipe.needs and discriminator is None:
        discriminator = recipe.discriminator.build(student.pixel_shape, student.num_classes, recipe.seed)
    kept = (
        *(["target"] if "target" in recipe.needs else []),
        *(["teacher"] if any(isinstance(objective, Progressive) for objective in recipe.objectives) else []),
    )
    return Networks(
        student,
        ema,
        as_teacher(teacher, student) if "teacher" in recipe.needs else None,
        discriminator,
        target=deepcopy(ema) if "target" in recipe.needs else None,
        perceptual=perceptual(recipe),
        kept=kept,
    )


def as_teacher(teacher: Denoiser, student: Denoiser) -> Denoiser:
    """Return a frozen copy of the teacher that computes as its student does."""
    copy = deepcopy(teacher).eval().requires_grad_(False)
    copy.precision = student.precision
    return copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def perceptual(recipe: Recipe) -> torch.nn.Module | None:
    """Return the network that distances want, which all share one."""
    distances = [getattr(objective, "distance", None) for objective in recipe.objectives]
    return next((distance.build() for distance in distances if isinstance(distance, Lpips)), None)


def started(preconditioning: Preconditioning, recipe: Recipe) -> Preconditioning:
    """Return the preconditioning with the noise level that the recipe's student starts from, now and when it is used.

    Discrete families limit it to their schedule's.
    """
    sigmas = [objective.sigma for objective in recipe.objectives if not isinstance(objective, Denoising)]
    if not sigmas:
        return preconditioning
    boundary = any(isinstance(objective, Adversarial | Consistency) for objective in recipe.objectives)
    if boundary and isinstance(preconditioning, EDM):
        return Boundary(preconditioning.sigma_data, sigma_max=sigmas[0])
    return replace(preconditioning, sigma_max=sigmas[0])  # type: ignore[type-var]


def new_denoiser(
    backbone: dict[str, Any],
    image_shape: tuple[int, int, int],
    num_classes: int = 0,
    *,
    augmentation: bool = False,
    seed: int = 0,
) -> Denoiser:
    """Return an untrained EDM denoiser; `backbone` is {"kind": ..., settings} and sizes are taken from the images.

    With `augmentation` it takes the labels of augmented images.
    """
    channels, height, width = image_shape
    if height != width:
        raise ValueError(f"Networks here take square images, not {height}x{width}: crop them when opening the data.")
    sizes = {"resolution": height, "in_channels": channels, "out_channels": channels, "num_classes": num_classes}
    if augmentation:
        sizes["augmentation_dim"] = AUGMENTATION_DIM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = backbones.build({**backbone, **sizes})
    return Denoiser(network, EDM(), image_shape, num_classes)


def untrained(denoiser: Denoiser, seed: int) -> Denoiser:
    """Return a denoiser of the same kind with fresh random weights."""
    fresh = deepcopy(denoiser)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(denoiser.backbone, backbones.Backbone):
            fresh.backbone = backbones.build({"kind": denoiser.backbone.kind, **denoiser.backbone.config})
        else:
            for module in fresh.backbone.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
    return fresh


def check_fit(denoiser: Denoiser, images: Images) -> None:
    """Raise a ValueError when a model cannot be trained on these images, saying what differs and what to do."""
    check_pixels(denoiser)
    made, given = denoiser.pixel_shape, images.shape
    if made[0] != given[0]:
        raise ValueError(
            f"The model makes images of {made[0]} channels but {images.name} has {given[0]}: use --channels {made[0]}."
        )
    if made != given:
        raise ValueError(
            f"The model makes {made[1]}x{made[2]} images but those of {images.name} are {given[1]}x{given[2]}: "
            f"use --resolution {made[1]} --resize area."
        )
    if denoiser.num_classes and not images.num_classes:
        raise ValueError(
            f"The model has {denoiser.num_classes} classes but {images.name} has no labels: sort the images into a "
            "sub-folder for each class, add a dataset.json or, in an .npz, an array `labels`, and leave --labels none "
            "out; or take a model without classes."
        )
    if images.num_classes > denoiser.num_classes > 0:
        raise ValueError(f"The model has {denoiser.num_classes} classes but {images.name} has {images.num_classes}.")


def share(networks: Networks) -> Share:
    """Return how many of the student's parameters are frozen."""
    sizes = [(p.numel(), p.requires_grad) for p in networks.student.parameters()]
    return Share(sum(n for n, moves in sizes if not moves), sum(n for n, _ in sizes))
