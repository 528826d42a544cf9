"""What several commands have in common: options, models and data that they name, and what is printed."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from d2o.errors import printable

from .progress import quiet, say

if TYPE_CHECKING:
    import torch

    from d2o.data.datasets import Images
    from d2o.diffusion.denoiser import Denoiser
    from d2o.training.recipe import Recipe, Stages

T = TypeVar("T")
CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff)
OWN_IMAGES = "--steps 18 gives its own images"
"""The remedy for those who ask a diffusion model for images in one step."""

Model = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
"""A checkpoint's file or folder, a run directory, or an address, without the name of an option."""
Set = tyro.conf.UseAppendAction[tuple[str, ...]]
"""KEY=VALUE, as often as wanted."""


def parse(record: type[T], command: str, arguments: Sequence[str], description: str | None) -> T:
    """Read the options of a command into a record; exits with code 2 and a hint when they are wrong."""
    return tyro.cli(record, prog=f"d2o {command}", args=arguments, description=description or "", config=CONFIG)


def check_inputs(*models: str | None, data: str | None = None, codec: str | None = None) -> None:
    """Find what a command will open, so that the last of its inputs is refused before there is work on the first."""
    from d2o.checkpoints.places import locate
    from d2o.encoders.codec import read_config

    for name in models:
        if name is not None:
            locate(name, "model")
    if data is not None:
        locate(data, "data")
    if codec is not None:
        read_config(codec)


@dataclass(frozen=True, kw_only=True)
class StateDictOptions:
    """What a state dict does not say of its network."""

    family: str | None = None
    """What a state dict's network predicts, if its weights do not show it: epsilon, edm, consistency, sit, flow ..."""
    config: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A JSON file with constructor arguments of a state dict's network, if its weights do not show them."""

    @property
    def load_options(self) -> dict[str, Any]:
        return {"family": self.family, "config": self.config}


@dataclass(frozen=True, kw_only=True)
class ModelOptions(StateDictOptions):
    """How a model is asked for images, besides what its file does not say."""

    start: Annotated[str | None, tyro.conf.arg(metavar="SIGMA|auto")] = None
    """Noise level at which sampling starts; auto: find one from which a single step has a small error."""
    clip: Annotated[str | None, tyro.conf.arg(metavar="BOUND|none")] = None
    """Clip each estimate of the image to -BOUND ... BOUND; none: never clip, whatever the model's scheduler says."""

    @property
    def asked(self) -> dict[str, str]:
        """Those of these options that were given, by name."""
        given = {**self.load_options, "start": self.start, "clip": self.clip}
        return {name: value for name, value in given.items() if value is not None}

    def adapt(self, denoiser: "Denoiser", images: "Images | None" = None) -> "Denoiser":
        """Return the model with the start and bound that were asked for; "auto" looks at the images, if there are."""
        if self.clip is not None:
            from d2o.encoders.codec import makes_latents

            bound = None if self.clip == "none" else read_positive("--clip", self.clip, "none")
            if bound is not None and makes_latents(denoiser):
                raise ValueError(f"--clip {self.clip} is for pixels, and this model makes latent images: leave it out.")
            denoiser = denoiser.replace(clip=bound)
        if self.start is None:
            return denoiser
        from d2o.diffusion.families import start_at
        from d2o.diffusion.noise import name_level
        from d2o.diffusion.start import IMAGES, deviation_of, find_start

        if self.start != "auto":
            sigma = read_positive("--start", self.start, "auto")
        elif images is None:
            sigma = find_start(denoiser)
        else:
            from d2o.data.datasets import spread
            from d2o.data.files import to_float

            x0 = denoiser.encode(to_float(images.pixels(spread(len(images), IMAGES))).to(denoiser.device))
            sigma = find_start(denoiser, deviation_of(x0))
        family = start_at(denoiser.preconditioning, sigma)
        own = denoiser.sigma_max
        why = "the model's own" if family.sigma_max == own else f"instead of {name_level(own)}"
        why += f", as the schedule ends below {self.start}" if family.sigma_max < sigma else ""
        say(f"Sampling starts from {name_level(family.sigma_max)}, {why}.")
        return denoiser.replace(preconditioning=family)


def read_positive(option: str, text: str, other: str) -> float:
    """Return an option's number above 0; ValueError for anything else, which names the word that it may also be."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ValueError(f"{option} {text} is neither a number above 0 nor {other}; write for example {option} 5.")
    return value


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How images are prepared."""

    resolution: int | None = None
    """Resize images to this side length; needs --resize."""
    resize: Annotated[str | None, tyro.conf.arg(metavar="area|bilinear|lanczos|center-crop")] = None
    """How to resize images to --resolution; never done silently."""
    channels: Literal[1, 3] | None = None
    """Convert images to grey (1) or RGB (3)."""
    background: Annotated[str | None, tyro.conf.arg(metavar="white|black|grey|#rrggbb|none")] = None
    """Put transparent images on this background; none drops transparency and keeps the colours beneath."""
    labels: Annotated[str, tyro.conf.arg(metavar="auto|none|folders|NAME")] = "auto"
    """Classes: auto uses dataset.json, class folders or an array of labels; folders uses folders of any name, also
    00000, and train without --split; NAME an array or column; none no classes."""
    captions: Annotated[str, tyro.conf.arg(metavar="auto|none|NAME")] = "auto"
    """Captions, for models that read them: auto uses metadata.jsonl, .txt or .json files beside images, or a
    column; NAME a key or column, txt the .txt files; none no captions."""
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME|all")] = None
    """The split, if folders or parquet files are named train, val, test; by default train."""
    classes: Annotated[str | None, tyro.conf.arg(metavar="NAME=NUMBER,...")] = None
    """The model's number for each class of the data, such as cat=3,dog=5, if they differ."""

    def prepare(self, data: str, model: "Denoiser | None" = None) -> "Images":
        """Return the images that are named, with the class numbers of a model that has classes.

        A model in their place, such as a run with its grids of samples, is refused.
        """
        from d2o.checkpoints.places import locate
        from d2o.data.classes import parse_classes
        from d2o.data.datasets import open_images

        names = ("resolution", "resize", "channels", "background", "labels", "captions", "split")
        options = {name: getattr(self, name) for name in names}
        options["classes"] = None if self.classes is None else parse_classes(self.classes)
        if model is not None:
            options |= {"num_classes": model.num_classes or None, "class_names": model.class_names}
        return open_images(locate(data, "data").path, **options)


@dataclass(frozen=True, kw_only=True)
class DataOptions(Preparation):
    """Which images are opened, and how."""

    data: str
    """Images: a folder or zip, an .npz, .parquet or .tar, or the built-in `digits`, `shapes`, `emoji`."""

    def open(self, model: "Denoiser | None" = None) -> "Images":
        return self.prepare(self.data, model)


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where a command computes."""

    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda|cuda:1|mps")] = "auto"
    """Where to compute; auto: a GPU if there is one (CUDA, else Apple), else the CPU."""

    def find_device(self) -> "torch.device":
        """Return the device; ValueError where it is not there."""
        from d2o.devices import find_device

        return find_device(self.device)


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(DeviceOptions):
    """How features of images are computed."""

    weights: str = "auto"
    """File with the feature network's weights, if they are not installed."""
    batch: int = 64
    """Images at once; it does not change the result."""
    json: bool = False
    """Print JSON instead of text."""


def recipe_from(name: str, changes: Mapping[str, Any], settings: Sequence[str]) -> "Recipe | Stages":
    """Return a recipe by name or file (.json, .yaml), with options that were given and KEY=VALUE settings on top."""
    from d2o.training.opening import open_recipe
    from d2o.training.recipe import change

    recipe = open_recipe(name, changes)
    for key, value in map(read_setting, settings):
        recipe = change(recipe, key, value)
    return recipe


def read_setting(setting: str) -> tuple[str, Any]:
    """Return key and value of KEY=VALUE; the value is YAML."""
    import yaml

    key, equals, value = setting.partition("=")
    if not equals:
        raise ValueError(f"--set {setting} is not of the form KEY=VALUE.")
    try:
        return key.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"--set {setting}: the value is not YAML, such as 0.1, true or [1, 2].") from error


def tell(record: Any, text: str, as_json: bool) -> None:
    """Print the outcome of a command: as text for people, or as JSON for machines."""
    if not quiet():
        print(json.dumps(record, indent=2) if as_json else "\n".join(map(printable, text.split("\n"))))


def write_command(command: str, options: Mapping[str, Any], *words: str, program: Sequence[str] = ("d2o",)) -> str:
    """Return a command as a shell takes it: its words, its options that are not None, and what --import has named."""
    plugins = sys.modules.get("d2o.cli.plugins")
    imports = [f"--import={name}" for name in (plugins.IMPORTED if plugins else ())]
    given = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join([*program, *imports, command, *words, *given])


def repeat(options: Any, *records: type) -> dict[str, Any]:
    """Return those options, by name, that the records have and that were given other values than the default."""
    rows = [(field, getattr(options, field.name)) for record in records for field in fields(record)]
    return {field.name.replace("_", "-"): value for field, value in rows if value != field.default}
