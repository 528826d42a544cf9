"""What is advised for images of which size, on which device: the one table behind `d2o plan`, and how images fit it."""

from dataclasses import replace
from typing import Any, NamedTuple

from d2o.backbones.text_to_image import TextToImage
from d2o.data.datasets import CHECKED, spread
from d2o.data.decoding import CHANNELS, open_image
from d2o.data.encodings import is_encodings
from d2o.data.sources import find
from d2o.diffusion.denoiser import Denoiser
from d2o.encoders.codec import makes_latents
from d2o.training.freezing import fitting_rules
from d2o.training.recipe import Recipe
from d2o.training.recipes import RECIPES, find_backbone, find_recipe

from .text_networks import PUBLISHED, Published


class Training(NamedTuple):
    """What one command trains: a recipe on the most images that are worth it; None leaves a setting to the recipe."""

    recipe: str
    images: int
    backbone: str | None = None
    batch: int | None = None
    learning_rate: float | None = None
    frozen: tuple[str, ...] | None = None
    micro_batch: int | None = None
    precision: str | None = None

    def open(self) -> Recipe:
        backbone = None if self.backbone is None else find_backbone(self.backbone)
        given = {"backbone": backbone, "batch_size": self.batch, "learning_rate": self.learning_rate}
        given |= {"duration": self.images, "frozen": self.frozen, "micro_batch_size": self.micro_batch}
        given |= {"precision": self.precision}
        return replace(find_recipe(self.recipe), **{k: value for k, value in given.items() if value is not None})

    @property
    def options(self) -> dict[str, Any]:
        """Its options on the command line; None is the recipe's own."""
        frozen = None if self.frozen is None else f"frozen=[{','.join(self.frozen)}]"
        images = None if self.images == find_recipe(self.recipe).duration else self.images
        given = {"recipe": self.recipe, "backbone": self.backbone, "images": images, "batch": self.batch}
        given |= {"precision": self.precision} if self.precision else {}  # GPUs have one for both commands
        return given | {"micro-batch": self.micro_batch, "learning-rate": self.learning_rate, "set": frozen}


class Row(NamedTuple):
    """What is advised for images of one size, and what was measured of that."""

    pretrain: Training
    finetune: Training
    quality: str


UNKNOWN = "Not measured: nobody has trained at this size with d2o yet, so look at the grids during training."
DIGITS = Row(
    Training("digits-pretrain", 46_000),
    Training("digits-d2o-f", 28_000),
    "Measured with 1,797 digits (docs/demo.md): KID in lite2 0.25 to 0.32 in one call, 0.17 to 0.20 in the teacher's "
    "35; legible, and less varied than real ones.",
)
SMALL = Row(
    Training("cifar10-small-pretrain", 800_000),
    Training("cifar10-small-d2o-f-best", 16_000),
    "Measured with 40,000 images of CIFAR-10 (docs/performance.md): KID in lite2 0.18 in one call, 0.42 in its "
    "teacher's 35, 1.75 of blurred real ones; blotchy images, often not recognisable.",
)
SHAPES = Row(
    Training("shapes-pretrain", 300_000),
    Training("shapes-d2o-f", 20_000),
    "Measured with 50,000 drawn shapes (docs/how-to/words.md): 87 to 91 % of the images match their caption.",
)
CAPTIONED = Row(
    Training("emoji-pretrain", 640_000),
    Training("emoji-d2o-f", 52_000),
    "Measured with 439 emoji (docs/how-to/emoji.md): 88 % match the prompt in the teacher's 35 calls, 64 % in one; "
    "other captioned images were not tried.",
)
TABLE: dict[str, dict[int, Row]] = {
    "cpu": {
        8: DIGITS,
        16: SMALL,
        32: Row(
            Training("cifar10-small-pretrain", 1_600_000, backbone="small"),
            Training("cifar10-small-d2o-f-best", 32_000),
            UNKNOWN,
        ),
    },
    "gpu": {
        8: DIGITS,
        16: SMALL,
        32: Row(
            Training("pretrain", 40_000_000, "ncsnpp-32", 512, 1e-3),
            Training("d2o-f", 5_000_000, batch=256, learning_rate=1e-4),
            UNKNOWN,
        ),
        64: Row(
            Training("pretrain", 40_000_000, "ncsnpp-64", 256, 2e-4),
            Training("d2o-f", 10_000_000, batch=256, learning_rate=2e-5),
            UNKNOWN,
        ),
    },
    "captions": {16: CAPTIONED, 32: CAPTIONED},
    "shapes": {16: SHAPES},
}
"""By device, or where captions are told by whose, then by the side of images in pixels.

What says so is measured, the other rows are first guesses.
"""
PUBLISHED_AT = {256: "dit-d2o-f", 512: "sd15-d2o-f", 1024: "sdxl-d2o-f"}
"""Recipes for published models of latents, by the side of their images in pixels: d2o pre-trains none so large."""
NEAR = 1.25
"""Images are enlarged up to so many times, to reach a size of the table."""


class Look(NamedTuple):
    """What images are before they are prepared: sizes (width, height), kinds of colour, transparency.

    `told` is the part of TABLE for their captions; empty where networks are told none.
    """

    sizes: frozenset[tuple[int, int]]
    kinds: frozenset[str]
    alpha: bool
    told: str = ""

    @property
    def side(self) -> int:
        return min(map(min, self.sizes))

    def prepare(self, side: int, channels: int | None = None) -> dict[str, Any]:
        """Return the options of `open_images` that bring all to one square size and to one number of channels."""
        is_same = len(self.sizes) == 1 and len(set(*self.sizes)) == 1
        how = ("area" if self.side > side else "bilinear") if is_same else "center-crop"
        found = CHANNELS.get(next(iter(self.kinds))) if len(self.kinds) == 1 else None
        return {
            **({} if self.sizes == {(side, side)} else {"resolution": side, "resize": how}),
            **({} if found is not None and channels in (found, None) else {"channels": channels or 3}),
            **({"background": "white"} if self.alpha else {}),
        }


def look_at(data: str, labels: str = "auto", split: str | None = None, captions: str = "auto") -> Look | None:
    """Return what the headers of images say; None of what `d2o encode` has prepared already."""
    if is_encodings(data):
        return None
    source = find(data, labels, split, captions)
    headers = [open_image(source, index)[0] for index in spread(len(source.names), CHECKED)]
    sizes, kinds = (frozenset(getattr(header, name) for header in headers) for name in ("size", "kind"))
    told = name_captions(data) if source.captions is not None and source.labels is None else ""
    return Look(sizes, kinds, any(header.alpha for header in headers), told)


def name_captions(data: str) -> str:
    """Return the part of TABLE for the captions of data: those of the built-in shapes are simpler than any others."""
    return "shapes" if data == "shapes" else "captions"


def rows_for(kind: str, side: int) -> list[tuple[int, Row]]:
    """Return the sizes that images of a side can be brought to, the largest first, and their rows."""
    table = TABLE[kind]
    sides = [there for there in sorted(table, reverse=True) if there <= NEAR * side] or [min(table)]
    return [(there, table[there]) for there in sides]


def follow(recipe: str) -> Training:
    """Return the fine-tuning after a pre-training by a recipe: the best of the same name, or else plain D2O-F."""
    name = recipe.removesuffix("pretrain") + "d2o-f"
    name = next((known for known in (f"{name}-best", name) if known in RECIPES), "d2o-f")
    return Training(name, find_recipe(name).duration)


def tune(model: Denoiser, training: Training) -> Training:
    """Return the fine-tuning of a given model: as it is, or for latents a published one's, frozen as it can be."""
    if makes_latents(model):
        name = next((f"{name}-d2o-f" for name, other in PUBLISHED.items() if is_of(model, other)), "dit-d2o-f")
        training = Training(name, find_recipe(name).duration)
    rules = fitting_rules(model)
    return training if rules == training.open().frozen else training._replace(frozen=rules)


def is_of(model: Denoiser, published: Published) -> bool:
    """Return whether a model's network is of a published one's class, and as wide where it reads captions."""
    if not isinstance(network := model.backbone, TextToImage):
        return False
    width = published.settings.get("cross_attention_dim", network.token_width)
    return network.config["network"] == published.network and width == network.token_width
