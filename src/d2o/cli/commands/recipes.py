"""List the named recipes, or show one as YAML that `--recipe FILE.yaml` takes.

examples:
  d2o recipes
  d2o recipes cifar10-d2o-f > mine.yaml
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
import yaml

from d2o.cli.options import parse, tell
from d2o.training.recipe import Recipe, Stages, to_dict
from d2o.training.recipes import PAPER_FID, RECIPES, STAGES, find_any


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
        tell(records, "\n".join(row(name, recipe) for name, recipe in every.items()), options.json)
        return
    record, fid = to_dict(find_any(options.name)), PAPER_FID.get(options.name)
    comment = f"# The paper's FID in one step: {fid}. Not yet reproduced with d2o.\n" if fid else ""
    tell(record, comment + yaml.safe_dump(record, sort_keys=False).rstrip(), options.json)


def row(name: str, recipe: Recipe | Stages) -> str:
    stages = recipe.stages if isinstance(recipe, Stages) else (recipe,)
    paper = f"; the paper's FID {PAPER_FID[name]}, not yet reproduced here" if name in PAPER_FID else ""
    return f"{name:<28} {'; then '.join(map(describe, stages))}{paper}"


def describe(recipe: Recipe) -> str:
    objectives = " + ".join(objective.kind for objective in recipe.objectives)
    frozen = f", {' and '.join(recipe.frozen)} frozen" if recipe.frozen else ""
    start = "" if recipe.pretrained else ", from random weights"
    other = "discriminator" in recipe.needs and recipe.discriminator.kind != "projected"
    judge = f", judged by {recipe.discriminator.kind}" if other else ""
    data = "" if recipe.data is None else f" ({recipe.data.count:,} of the {recipe.data.kind}'s own)"
    return f"{objectives}{judge}{frozen}{start}, {recipe.duration:,} images{data} in batches of {recipe.batch_size}"
