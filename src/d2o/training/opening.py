"""Open a recipe by object, name or file, or several of them as stages, with changes on top."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from . import recipes
from .recipe import Recipe, Stages, change, from_dict

Named = Recipe | Stages | str | Path | Mapping[str, Any] | list | tuple
"""A recipe, its name, its file (.json, .yaml), its JSON, or a list of these: stages.

In lists {"recipe": NAME, PATH: VALUE, ...} is a recipe with changes.
"""


def open_recipe(recipe: Named, changes: Mapping[str, Any]) -> Recipe | Stages:
    """Return a recipe, or stages, with changes by dotted path; None changes nothing."""
    opened = open_named(recipe)
    for key, value in changes.items():
        if value is not None and (key, value) != ("precision", "auto"):
            opened = change(opened, key, value)
    return opened


def open_named(recipe: Any) -> Recipe | Stages:
    if isinstance(recipe, Recipe | Stages):
        return recipe
    if isinstance(recipe, list | tuple):
        return from_dict({"stages": open_stages(recipe)})
    if not isinstance(recipe, Mapping):
        is_file = Path(str(recipe)).suffix in (".json", ".yaml", ".yml")
        return read_recipe(Path(recipe)) if is_file else recipes.find_any(str(recipe))
    if isinstance(recipe.get("recipe"), str):
        return open_recipe(recipe["recipe"], {key: value for key, value in recipe.items() if key != "recipe"})
    if isinstance(recipe.get("stages"), list | tuple):
        return from_dict({**recipe, "stages": open_stages(recipe["stages"])})
    return from_dict(recipe)


def open_stages(rows: Iterable[Any]) -> list[Recipe]:
    """Return the recipes of a list; what is stages itself is taken apart."""
    opened = map(open_named, rows)
    return [stage for one in opened for stage in (one.stages if isinstance(one, Stages) else [one])]


def read_recipe(file: Path) -> Recipe | Stages:
    if not file.exists():
        raise ValueError(f"There is no recipe file {file}.")
    try:
        values = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is neither JSON nor YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(values, dict | list):
        raise ValueError(f"{file} does not contain a recipe, a mapping of keys to values.")
    asked = values.get("recipe") if isinstance(values, dict) else None  # of a run's recipe.json
    return open_named(asked if isinstance(asked, dict) else values)
