"""Make the networks of a run: the student with its average, and what its objectives want beside it."""

import logging
from copy import deepcopy
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from d2o import backbones
from d2o.data.augmentation import AUGMENTATION_DIM
from d2o.data.datasets import Images
from d2o.diffusion.condition import Words
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import amplification, from_spec
from d2o.discriminators import Discriminator
from d2o.encoders.captions import Encoders
from d2o.encoders.codec import Autoencoder, check_pixels
from d2o.features.frozen import FrozenMaps
from d2o.kernels.checkpointing import checkpoint_blocks
from d2o.kernels.pieces import run_in_pieces
from d2o.kernels.storage import narrow_frozen
from d2o.objectives.objective import Networks
from d2o.objectives.teaching import copy_beside, copy_teacher

from .freezing import freeze, settle_frozen
from .recipe import Recipe, to_dict

LARGEST = 2.5
"""Amplification up to which one-step generators compute in bfloat16: their images differ by about 1 % of their range.

A network's output differs by 1/256 to 1/128 (`benchmarks/rounding.py`).
"""


def networks(recipe: Recipe, teacher: Denoiser, discriminator: Discriminator | None = None) -> Networks:
    """Return the networks of a run that starts from `teacher`, which itself is left as it is.

    A recipe that is not `pretrained` takes from it the architecture only (see `new_denoiser`). A `discriminator` of
    your own takes the place of the recipe's. What is frozen is held once: student, averages and teacher share it, also
    with the model that was given, as far as it lies in memory as training wants it (channels last, as precise).
    """
    if not isinstance(teacher, Denoiser):
        raise ValueError(
            f"A run starts from a denoiser, not {type(teacher).__name__}: use d2o.load, or d2o.untrained for one of "
            "random weights."
        )
    if not isinstance(discriminator, Discriminator | None):
        name = type(discriminator).__name__
        raise ValueError(f"{name} is not a discriminator: derive it from d2o.discriminators.Discriminator.")
    recipe = replace(recipe, frozen=settle_frozen(recipe.frozen, teacher))
    student = make_student(recipe, teacher)
    ema = copy_beside(student, student)
    beside: dict[str, Any] = {name: copy_beside(student, student) for name in recipe.averages}
    if discriminator is not None:
        beside["discriminator"] = discriminator
    for objective in recipe.objectives:
        for name in objective.needs:
            if name not in beside and name != "discriminator":
                beside[name] = objective.build(name, teacher, student)
    if "discriminator" in recipe.needs and discriminator is None:
        beside["discriminator"] = make_discriminator(recipe, teacher, student, beside)
    for part in (part for network in beside.values() if recipe.checkpointing for part in network.modules()):
        if isinstance(part, FrozenMaps):
            run_in_pieces(part)
        elif isinstance(part, Denoiser) and any(parameter.requires_grad for parameter in part.parameters()):
            checkpoint_blocks(part.backbone)
    known = {row.name for row in fields(Networks)}
    extra = {name: beside.pop(name) for name in list(beside) if name not in known}
    return Networks(student, ema, **beside, extra=extra)


def make_discriminator(recipe: Recipe, teacher: Denoiser, student: Denoiser, beside: dict[str, Any]) -> Discriminator:
    """Return the recipe's discriminator for what the student makes; it may share the run's teacher, which must stay."""
    shape = next(row.judged_shape(student) for row in recipe.objectives if "discriminator" in row.needs)
    given = {}
    if "teacher" in getattr(recipe.discriminator, "needs", ()):
        stays = "teacher" in beside and not any("teacher" in row.keeps for row in recipe.objectives)
        given["teacher"] = beside["teacher"] if stays else copy_teacher(teacher, student)
    return recipe.discriminator.build(shape, student.vocabulary, recipe.seed, **given)


def make_student(recipe: Recipe, teacher: Denoiser) -> Denoiser:
    """Return a copy of the teacher, or of its architecture, as the recipe's objectives train it: frozen as it says.

    Frozen parameters are its own, but in the teacher's memory, unless they have to be converted.
    """
    student = share(teacher) if recipe.pretrained else reset_weights(teacher, recipe.seed)
    for objective in reversed(recipe.objectives):  # the first one has the last word
        student = objective.prepare(student)
    if recipe.checkpointing:
        checkpoint_blocks(student.backbone)
    parts = {
        name: replace(part, precision=recipe.precision)
        for name, part in (("codec", student.codec), ("reader", student.reader))
        if isinstance(part, Autoencoder | Encoders)
    }
    student = student.replace(
        **parts,
        precision=network_precision(recipe, student),
        judged_by=recipe.judged_by,
        provenance={"recipe": to_dict(recipe), "from": teacher.provenance},
    )
    freeze(student, recipe.frozen)
    for parameter in student.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.clone()
    if recipe.frozen_precision == "bfloat16":
        narrow_frozen(student)
    student.train(any(objective.dropout for objective in recipe.objectives))
    return student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def share(denoiser: Denoiser) -> Denoiser:
    """Return a copy whose parameters are its own, in the memory of the model's."""
    return deepcopy(denoiser, {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in denoiser.parameters()})


def network_precision(recipe: Recipe, student: Denoiser) -> torch.dtype:
    """Return the recipe's precision, or float32 where one-step images would show the rounding of bfloat16; log that."""
    factor = amplification(student.preconditioning)
    if recipe.precision == "float32" or not student.one_step or factor <= LARGEST:
        return getattr(torch, recipe.precision)
    logging.getLogger("d2o").info(
        f"The network computes in float32: one call from the noise level {student.sigma_max:.3g} multiplies the errors "
        f"of rounding to bfloat16 by {factor:.3g}. With d2o finetune --start {LARGEST} or less it computes in bfloat16."
    )
    return torch.float32


def new_denoiser(
    backbone: dict[str, Any],
    image_shape: tuple[int, int, int],
    num_classes: int = 0,
    *,
    family: dict[str, Any] | None = None,
    augmentation: bool = False,
    seed: int = 0,
    reader: Words | None = None,
) -> Denoiser:
    """Return an untrained denoiser; `backbone` is {"kind": ..., settings} and sizes are taken from the images.

    `family` is {"kind": ..., settings}, EDM's by default. With `augmentation` it takes the labels of augmented images;
    with a `reader` captions in place of classes.
    """
    channels, height, width = image_shape
    if height != width:
        raise ValueError(f"These networks take square images, not {height}x{width}: crop them when opening the data.")
    sizes = {"resolution": height, "in_channels": channels, "out_channels": channels, "num_classes": num_classes}
    if augmentation:
        sizes["augmentation_dim"] = AUGMENTATION_DIM
    if reader is not None:
        sizes |= {"num_classes": 0, "vocabulary": reader.size, "length": reader.length}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, family = backbones.build({**backbone, **sizes}), family or {"kind": "edm"}
        return Denoiser(network, from_spec(family), image_shape, sizes["num_classes"], reader=reader)


def learn_words(denoiser: Denoiser, more: Words, seed: int = 0) -> Denoiser:
    """Return a model that also reads the words of `more`: those it knows keep their weights, the others' are random."""
    known: Any = denoiser.reader
    if not (new := tuple(word for word in more.words if word not in known.numbers)):
        return denoiser
    reader = Words(known.words + new, max(known.length, more.length), more.examples)
    wider = reset_weights(denoiser, seed, vocabulary=reader.size, length=reader.length)
    weights = wider.backbone.state_dict()
    for name, tensor in denoiser.backbone.state_dict().items():
        weights[name][tuple(map(slice, tensor.shape))] = tensor
    return wider.replace(reader=reader)


def reset_weights(denoiser: Denoiser, seed: int, **settings: int) -> Denoiser:
    """Return a denoiser of the same kind, or with other settings of its backbone, with fresh random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone: Any = denoiser.backbone
        if isinstance(backbone, backbones.Backbone):
            return denoiser.replace(backbone=backbones.build({"kind": backbone.kind, **backbone.config, **settings}))
        backbone = deepcopy(backbone)
        for module in backbone.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):  # torch's own name, on torch's own layers
                reset()
        return denoiser.replace(backbone=backbone)


def check_fit(denoiser: Denoiser, images: Images) -> None:
    """Raise a ValueError when a model cannot be trained on these images, saying what differs and what to do."""
    check_pixels(denoiser)
    (channels, *size), given, name = denoiser.pixel_shape, images.shape, images.name
    classes = denoiser.num_classes
    if channels != given[0]:
        raise ValueError(
            f"The model makes images of {channels} channels but {name} has {given[0]}: use --channels {channels}."
        )
    if size != list(given[1:]):
        raise ValueError(
            f"The model makes {size[0]}x{size[1]} images but those of {name} are {given[1]}x{given[2]}: "
            f"use --resolution {size[0]} --resize area."
        )
    if classes and not images.num_classes:
        raise ValueError(
            f"The model has {classes} classes but {name} has no labels: sort the images into a sub-folder for each "
            "class, add a dataset.json or an array `labels`, leave --labels none out, or take a model without classes."
        )
    if denoiser.reader is not None and not images.captioned:
        raise ValueError(
            f"The model is conditioned on captions but {name} has none: put a .txt file beside each image, or add a "
            "metadata.jsonl or a column `text`."
        )
    if isinstance(denoiser.reader, Words):
        some = range(min(len(images), 100_000))
        denoiser.reader.check(dict.fromkeys(text for index in some for text in images.captions(index)), images.name)
    if images.num_classes > classes > 0:
        raise ValueError(f"The model has {classes} classes but {name} has {images.num_classes}.")
