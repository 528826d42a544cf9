"""Train a diffusion model on your images.

examples:
  d2o pretrain --data digits --recipe digits-pretrain --out runs/teacher
  d2o pretrain --data images.zip --backbone small --images 500000 --batch 128 --out runs/teacher
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from d2o.cli.options import DataOptions, parse, recipe_from
from d2o.cli.progress import say
from d2o.cli.training import RunOptions, follow
from d2o.objectives.denoising import Denoising
from d2o.records import nearest
from d2o.training import recipes
from d2o.training.networks import new_denoiser

TEACHER_STEPS = 18


@dataclass(frozen=True, kw_only=True)
class Pretrain(DataOptions, RunOptions):
    """The options of `d2o pretrain`."""

    recipe: str = "pretrain"
    """A name (see `d2o recipes`) or a .json or .yaml file."""
    backbone: Annotated[str | None, tyro.conf.arg(metavar="|".join(recipes.BACKBONES))] = None
    """The network, when the recipe names none: small learns on two processor cores."""
    augment: bool = False
    """Show the network moved, scaled, turned and mirrored images, and tell it so; not for digits or letters."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o pretrain`."""
    options = parse(Pretrain, "pretrain", arguments, __doc__)
    changes = options.changes()
    if options.backbone is not None:
        if options.backbone not in recipes.BACKBONES:
            raise ValueError(
                f"There is no backbone {options.backbone!r}: {nearest(options.backbone, list(recipes.BACKBONES))}"
            )
        changes["backbone"] = recipes.BACKBONES[options.backbone]
    if options.augment:
        changes["objectives.0.augmentation"] = {}
    recipe = recipe_from(options.recipe, changes, options.set)
    if recipe.pretrained or "teacher" in recipe.needs:
        raise ValueError(
            f"The recipe {options.recipe} begins with a model, and pretrain has none: use d2o finetune --from MODEL "
            f"--recipe {options.recipe}, or --recipe scratch for a GAN from nothing."
        )
    options.check_out()
    images = options.open()
    backbone = recipe.backbone or recipes.BACKBONES["small"]
    augmentation = any(isinstance(row, Denoising) and row.augmentation for row in recipe.objectives)
    denoiser = new_denoiser(backbone, images.shape, images.num_classes, augmentation=augmentation, seed=recipe.seed)
    follow(options, recipe, denoiser, images, {}, title=options.recipe, steps=TEACHER_STEPS)
    say(f"Next: d2o finetune --from {options.out} --data {options.data} --recipe d2o-f --out {options.out}-one-step")
