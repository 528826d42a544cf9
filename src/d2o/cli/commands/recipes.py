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
from d2o.training.recipe import Recipe, to_dict
from d2o.training.recipes import PAPER_FID, RECIPES, find_recipe


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
    if options.json:
        shown = RECIPES if options.name is None else {options.name: find_recipe(options.name)}
        records = {name: to_dict(recipe) for name, recipe in shown.items()}
        tell(records if options.name is None else records[options.name], "", as_json=True)
        return
    if options.name is None:
        print("\n".join(row(name, recipe) for name, recipe in RECIPES.items()))
        return
    recipe = find_recipe(options.name)
    if options.name in PAPER_FID:
        print(f"# The paper's FID in one step: {PAPER_FID[options.name]}. Not yet reproduced with d2o.")
    print(yaml.safe_dump(to_dict(recipe), sort_keys=False), end="")


def row(name: str, recipe: Recipe) -> str:
    """Return a recipe as one line of the list."""
    objectives = " + ".join(objective.kind for objective in recipe.objectives)
    frozen = f", {' and '.join(recipe.frozen)} frozen" if recipe.frozen else ""
    start = "" if recipe.pretrained else ", from random weights"
    paper = f"; the paper's FID {PAPER_FID[name]}, not yet reproduced here" if name in PAPER_FID else ""
    other = "discriminator" in recipe.needs and recipe.discriminator.kind != "projected"
    judge = f", judged by {recipe.discriminator.kind}" if other else ""
    length = f"{recipe.duration:,} images in batches of {recipe.batch_size}"
    return f"{name:<28} {objectives}{judge}{frozen}{start}, {length}{paper}"
