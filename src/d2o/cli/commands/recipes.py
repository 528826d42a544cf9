"""List the named recipes, or print one as YAML for `--recipe FILE.yaml`.

examples:
  d2o recipes
  d2o recipes cifar10-d2o-f > mine.yaml
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
import yaml

from d2o.cli.options import parse, tell
from d2o.training.recipe import Recipe, Stages, to_dict
from d2o.training.recipes import PAPER_FID, RECIPES, STAGES, find_any

GROUPS = {
    "any images: the methods": ("",),
    "digits: the demo's, 8x8, minutes on two CPU cores": ("digits-",),
    "shapes and emoji: small pictures from their captions, on two CPU cores": ("shapes-", "emoji-"),
    "CIFAR-10 reduced to 16x16: minutes on two CPU cores": ("cifar10-small-",),
    "CIFAR-10 at 32x32: a first guess, for hours on two CPU cores": ("cifar10-32-",),
    "CIFAR-10 at 32x32: the paper's settings, for GPUs": ("cifar10-",),
    "faces, animals, ImageNet at 64x64: the paper's settings, for GPUs": ("ffhq64-", "afhqv2-64-", "imagenet64-"),
    "DiT on latents of ImageNet at 256x256: a first guess, for GPUs": ("dit-",),
    "text-to-image: a first guess, for GPUs of 80 GiB": ("coco256-", "sd15-", "sdxl-", "sd3-", "sana-", "flux-"),
}
"""What recipes are made for, by the beginning of their names: the longest one that fits."""
PURPOSES = {
    "pretrain": "a diffusion model to start from",
    "d2o": "one step, all weights trained",
    "d2o-f": "one step, most weights frozen, the usual choice",
    "scratch": "a GAN of the same network, for comparison",
    "pd": "progressive distillation, for comparison",
    "cd": "consistency distillation, for comparison",
    "ctm": "consistency trajectories, for comparison",
    "rcd": "reverse consistency distillation, for comparison",
    "pd-gan": "progressive distillation with a GAN loss",
    "cd-gan": "consistency distillation with a GAN loss",
    "ctm-gan": "consistency trajectories with a GAN loss",
    "rcd-gan": "reverse consistency distillation with a GAN loss",
    "dmd2": "matches the data's distribution with a second diffusion network",
    "dmd2-gan": "that network is also the discriminator",
    "frechet": "matches the data's moments in a feature space, without a GAN",
    "frechet-gan": "matches the data's moments, with a GAN loss",
    "2step": "two steps",
    "4step": "four steps",
    "unprojected": "a discriminator without projections",
    "channel": "a discriminator that mixes features only across channels",
    "stylegan2": "StyleGAN2's discriminator, without features",
    "perceptual": "LPIPS's network as discriminator",
    "convolutional": "a plain discriminator, without features",
    "hinge": "the hinge loss",
    "relativistic": "judges pairs of real and generated images",
    "own-features": "the teacher's own features in the discriminator, no download",
    "conv-qkv": "convolutions and qkv frozen, projections not",
    "qkv": "queries, keys and values frozen, too",
    "skip": "skip connections frozen, too",
    "all-but-norms": "all but norms frozen",
    "modulation": "only modulation trained",
    "biases": "only biases trained",
    "best": "the fastest to its teacher's quality so far",
    "200k": "the paper's short run",
    "lite0": "one feature network in the discriminator",
    "flow": "a student of a flow",
    "sketch-gan": "a short distillation, then the GAN",
    "coarse-to-fine": "judged with much noise, with little, then on the teacher's images",
    "teacher-images": "on data, then on the teacher's images",
}
"""What a recipe is for, by the end of its name: the longest one that fits."""


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """The options of `d2o recipes`."""

    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[RECIPE]")] = None
    """The recipe to show."""
    json: bool = False
    """Print JSON instead of text."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o recipes`."""
    options = parse(Recipes, "recipes", arguments, __doc__)
    if options.name is None:
        every = {**RECIPES, **STAGES}
        records = {name: to_dict(recipe) for name, recipe in every.items()}
        tell(records, "\n".join(rows(every)), options.json)
        return
    record, fid = to_dict(find_any(options.name)), PAPER_FID.get(options.name)
    comment = f"# The paper's FID in one step: {fid}. Not yet reproduced with d2o.\n" if fid else ""
    tell(record, comment + yaml.safe_dump(record, sort_keys=False).rstrip(), options.json)


def rows(recipes: Mapping[str, Recipe | Stages]) -> Iterator[str]:
    """Yield a heading for each group, and a line for each of its recipes."""
    groups: dict[str, list[str]] = {title: [] for title in GROUPS}
    starts = {start: title for title, row in GROUPS.items() for start in row}
    for name in recipes:
        groups[starts[max((start for start in starts if name.startswith(start)), key=len)]].append(name)
    for title, names in groups.items():
        yield title
        yield from (f"  {row(name, recipes[name])}" for name in names)
    yield "All settings of a recipe: d2o recipes NAME"


def row(name: str, recipe: Recipe | Stages) -> str:
    ends = [end for end in PURPOSES if f"-{name}".endswith(f"-{end}")]
    purpose = f"{PURPOSES[max(ends, key=len)]}; " if ends else ""
    stages = recipe.stages if isinstance(recipe, Stages) else (recipe,)
    paper = f"; the paper's FID {PAPER_FID[name]}, not yet reproduced here" if name in PAPER_FID else ""
    return f"{name:<34} {purpose}{'; then '.join(map(describe, stages))}{paper}"


def describe(recipe: Recipe) -> str:
    objectives = " + ".join(objective.kind for objective in recipe.objectives)
    frozen = f", {' and '.join(recipe.frozen)} frozen" if recipe.frozen else ""
    start = "" if recipe.pretrained else ", from random weights"
    other = "discriminator" in recipe.needs and recipe.discriminator.kind != "projected"
    judge = f", judged by {recipe.discriminator.kind}" if other else ""
    data = "" if recipe.data is None else f" ({recipe.data.count:,} of the {recipe.data.kind}'s own)"
    return f"{objectives}{judge}{frozen}{start}, {recipe.duration:,} images{data} in batches of {recipe.batch_size}"
