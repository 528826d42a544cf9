"""Train a diffusion model on your images.

examples:
  d2o pretrain --data digits --recipe digits-pretrain --out runs/teacher
  d2o pretrain --data images.zip --backbone small --images 500000 --batch 128 --out runs/teacher
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from d2o.cli.options import DataOptions, DeviceOptions, Preparation, parse, repeat, write_command
from d2o.cli.progress import say
from d2o.cli.training import RunOptions
from d2o.planning.table import follow, tune
from d2o.training.fit import pretrain
from d2o.training.recipes import BACKBONES, FAMILIES, find_backbone, find_family


@dataclass(frozen=True, kw_only=True)
class Pretrain(DataOptions, RunOptions):
    """The options of `d2o pretrain`."""

    recipe: str = "pretrain"
    """A name (see `d2o recipes`) or a .json or .yaml file."""
    backbone: Annotated[str | None, tyro.conf.arg(metavar="|".join(BACKBONES))] = None
    """The network, if the recipe names none: small trains on two CPU cores."""
    family: Annotated[str | None, tyro.conf.arg(metavar="|".join(FAMILIES))] = None
    """What the network predicts, such as edm, or flow for a velocity."""
    augment: bool = False
    """Shift, scale, rotate and mirror images, and condition the network on it; not for digits or letters."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o pretrain`."""
    options = parse(Pretrain, "pretrain", arguments, __doc__)
    backbone = options.backbone and find_backbone(options.backbone)
    family = options.family and find_family(options.family)
    augmentation = {} if options.augment else None
    changes = {"backbone": backbone, "family": family, "objectives.0.augmentation": augmentation}
    recipe = options.open_recipe(options.recipe, changes)
    options.check_out()
    result = options.run(pretrain, options.open(), recipe)
    given = {"from": options.out, "data": options.data, **repeat(options, Preparation, DeviceOptions)}
    given |= {**tune(result.denoiser, follow(options.recipe)).options, "out": f"{Path(options.out)}-one-step"}
    say(f"Next: {write_command('finetune', given)}")
