"""What several commands' options have in common: reading them, opening models and data, and settings of recipes."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
import yaml

from d2o.data.codec import attach
from d2o.data.datasets import Images, open_images
from d2o.diffusion.denoiser import Denoiser
from d2o.training import recipes
from d2o.training.recipe import Recipe, change, from_dict

T = TypeVar("T")
CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff)
OWN_IMAGES = "--steps 18 gives its own images"
"""What is said to those who ask a diffusion model for images in one step."""

Model = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
"""A checkpoint's file or folder, a run directory, or an address, without the name of an option."""
Set = tyro.conf.UseAppendAction[tuple[str, ...]]
"""KEY=VALUE, as often as wanted."""


def parse(record: type[T], command: str, arguments: Sequence[str], description: str | None) -> T:
    """Read the options of a command into a record; exits with code 2 and a hint when they are wrong."""
    return tyro.cli(
        record,
        prog=f"d2o {command}",
        args=arguments,
        description=description or "",
        config=CONFIG,
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How images are opened."""

    data: str
    """Images: a folder, an EDM zip, an .npz, .parquet, or the name `digits`."""
    resolution: int | None = None
    """Bring the images to this side; needs --resize."""
    resize: Annotated[str | None, tyro.conf.arg(metavar="area|bilinear|lanczos|center-crop")] = None
    """How images are brought to --resolution; never done silently."""
    channels: Literal[1, 3] | None = None
    """Convert to grey (1) or RGB (3)."""
    labels: Literal["auto", "none"] = "auto"
    """none: ignore the data's classes."""

    def open(self) -> Images:
        """Return the images."""
        return open_images(
            self.data, resolution=self.resolution, resize=self.resize, channels=self.channels, labels=self.labels
        )


def with_codec(denoiser: Denoiser, folder: str | None) -> Denoiser:
    """Return a denoiser with the autoencoder in a folder, or, without one, that which its own file names."""
    return denoiser if folder is None else attach(denoiser, folder)


def recipe_from(name: str, changes: dict[str, Any], settings: Sequence[str]) -> Recipe:
    """Return a recipe by name or file (.json, .yaml), with options that were given and KEY=VALUE settings on top."""
    path = Path(name)
    if path.suffix in (".json", ".yaml", ".yml"):
        if not path.exists():
            raise ValueError(f"There is no recipe file {path}.")
        try:
            values = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is neither JSON nor YAML: {str(error).splitlines()[0]}.") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} does not hold a recipe, a mapping of keys to values.")
        recipe = from_dict(values.get("recipe", values))
    else:
        recipe = recipes.named(name)
    for key, value in changes.items():
        if value is not None:
            recipe = change(recipe, key, value)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting} is not of the form KEY=VALUE.")
        try:
            recipe_value = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"--set {setting}: the value is not YAML, such as 0.1, true or [1, 2].") from error
        recipe = change(recipe, key.strip(), recipe_value)
    return recipe


def tell(record: Any, text: str, as_json: bool) -> None:
    """Print the outcome of a command: as text for people, or as JSON for machines."""
    if not quiet():
        print(json.dumps(record, indent=2) if as_json else text)


def quiet() -> bool:
    """Return whether this process should keep silent: only the first of many speaks."""
    return os.environ.get("RANK", "0") != "0"
