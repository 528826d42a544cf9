"""Named recipes: the methods, with the settings of data sets on top: `replace(D2O_F, **CIFAR10)`."""

from dataclasses import fields, replace
from typing import Any, NamedTuple

from d2o.data.augmentation import Augmentation
from d2o.discriminators import OwnFeatures, Perceptual, Projected
from d2o.objectives import Adversarial, Denoising, DistributionMatching, Frechet
from d2o.objectives.distance import Lpips
from d2o.records import find

from .freezing import BIASES_MOVE, MODULATION_MOVES, QUERIES_MOVE, WORDS_STAY
from .methods import D2O, D2O_F, METHODS, PRETRAIN, SCRATCH, SKETCH, STAGED
from .recipe import Recipe, Stages, TeacherImages
from .starts import BACKBONES, FAMILIES

LITE0 = "tf_efficientnet_lite0"


def full_size(*networks: str) -> Projected:
    return Projected(networks=networks, size=224, width=512, projection_weights="released")


# The paper's settings (its released scripts; R1 per image as explained at Adversarial).
CIFAR10: dict[str, Any] = {
    "batch_size": 256,
    "learning_rate": 1e-4,
    "discriminator_learning_rate": 1e-4,
    "ema_half_life": 500_000,
    "precision": "bfloat16",
    "discriminator": full_size("vgg16_bn", LITE0),
}
FACES64: dict[str, Any] = {  # FFHQ and AFHQv2 at 64x64
    **CIFAR10,
    "learning_rate": 2e-5,
    "discriminator_learning_rate": 4e-5,
    "discriminator": full_size("deit_base_distilled_patch16_224", LITE0),
}
IMAGENET64: dict[str, Any] = {
    **FACES64,
    "batch_size": 512,
    "learning_rate": 8e-6,
    "ema_half_life": 50_000_000,
    "objectives": (Adversarial(r1=1e-4 / 128),),
}

# A first guess for transformers on latents of 256x256 images, measured nowhere yet: the paper leaves them open.
DIT256: dict[str, Any] = {**IMAGENET64, "batch_size": 256, "micro_batch_size": 8, "learning_rate": 1e-5}

# First guesses for text-to-image networks of diffusers, measured nowhere yet; their micro-batches fit into 80 GiB, but
# for Flux. Students of noise predictors (SD, SDXL) compute in float32 unless they start from a lower level.
TEXT: dict[str, Any] = {
    **DIT256,
    "batch_size": 128,
    "duration": 2_000_000,
    "discriminator": full_size("deit_base_distilled_patch16_224", LITE0),
    "checkpointing": True,
}
OF_UNETS = ("convolution", "projection", "mlp")

# Two CPU cores, minutes: the demo's settings for 8x8 digits.
DIGITS_PRETRAIN: dict[str, Any] = {
    "backbone": {**BACKBONES["tiny"], "attention_resolutions": [4]},
    "duration": 46_000,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "learning_rate_ramp": 2_000,
}
DIGITS: dict[str, Any] = {
    "objectives": (Adversarial(r1=5e-4),),
    "duration": 28_000,
    "batch_size": 64,
    "learning_rate": 3e-4,
    "discriminator_learning_rate": 6e-4,
    "ema_ramp": 0.08,
    "discriminator": Projected(size=32, width=64),
}

# Two CPU cores, over two hours and minutes: CIFAR-10 reduced to 16x16 (--resolution 16 --resize area).
SMALL_PRETRAIN: dict[str, Any] = {
    "backbone": {**BACKBONES["small"], "attention_resolutions": [8]},
    "duration": 800_000,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "learning_rate_ramp": 5_000,
}
SMALL: dict[str, Any] = {
    "duration": 24_000,
    "batch_size": 32,
    "learning_rate": 3e-4,
    "discriminator_learning_rate": 3e-4,
    "learning_rate_decay": "linear",
    "ema_ramp": 0.1,
    "discriminator": Projected(size=48, width=64),
}

PAIRED = Adversarial(loss="relativistic", r1=5e-4, r2=5e-4)
ONE_FAKE_STEP = DistributionMatching(fake_steps=1)
DMD = {"objectives": (ONE_FAKE_STEP,), "learning_rate": 1.5e-4, "discriminator_learning_rate": 1e-3}
DMD_GAN = DMD | {"objectives": (replace(ONE_FAKE_STEP, gan=3e-3),)}
OWN_FEATURES = {key: getattr(METHODS["d2o-own-features"], key) for key in ("discriminator", "objectives")}

# Populations that are renewed often, and moments: while a queue held older images, students overshot in short runs.
MOMENTS: dict[str, Any] = {"learning_rate": 1e-3, "learning_rate_decay": "linear"}
DIGITS_FRECHET = {**DIGITS, **MOMENTS, "objectives": (Frechet(size=500, axes=64),)}
SMALL_FRECHET = Frechet(size=500, axes=128, references=10_000)
# The fastest to its teacher's quality so far (benchmarks/time_to_quality.py).
BEST = Adversarial(loss="relativistic", r2=1e-4 / 64, sigma=5.0), replace(SMALL_FRECHET, sigma=5.0, references=5_000)
BEST_RATES = {"learning_rate": 1e-3, "discriminator_learning_rate": 1e-3}
SMALL_BEST: dict[str, Any] = {**SMALL, **BEST_RATES, "objectives": BEST, "duration": 16_000}

# A first guess for two CPU cores and hours: CIFAR-10 at 32x32, on squares of 2x2 pixels.
SHORT_FLOATS = {"learning_rate_ramp": 10_000, "precision": "bfloat16"}
FOLDED = {**BACKBONES["folded"], "attention_resolutions": [8], "label_dropout": 0.1}
FOLDED_PRETRAIN = {**SMALL_PRETRAIN, **SHORT_FLOATS, "backbone": FOLDED, "duration": 1_000_000}
NOISIER = {"objectives": tuple(replace(one, sigma=10.0) for one in BEST)}  # larger images hide less in the same noise
FOLDED_BEST = {**SMALL, **NOISIER, "discriminator": Projected(size=64, width=64)}

# The same for a transformer of 1.9 million parameters and flow matching; its students are fine-tuned as above.
SMALL_FLOW = {**SMALL_PRETRAIN, "family": FAMILIES["flow"]}
SMALL_DIT = {"kind": "dit", "patch_size": 2, "channels": 128, "num_blocks": 6, "num_heads": 4}
SMALL_DIT_PRETRAIN = {**SMALL_FLOW, "backbone": SMALL_DIT, "duration": 240_000, "learning_rate": 1e-3}

# Two CPU cores, minutes: coloured shapes of 16x16 from their captions.
SHAPES_PRETRAIN = {**SMALL_FLOW, "backbone": {"kind": "text_transformer"}, "duration": 300_000, "learning_rate": 1.5e-3}
SHAPES: dict[str, Any] = {**SMALL, "duration": 20_000}

# Two CPU cores, over an hour: emoji of 32x32 from their names.
EMOJI_PRETRAIN = {**SMALL_PRETRAIN, **SHORT_FLOATS, "backbone": BACKBONES["words"], "duration": 640_000}
# A projected discriminator soon knows a few hundred pictures by heart (benchmarks/small_data.py).
EMOJI = {**SMALL, **OWN_FEATURES, "discriminator": OwnFeatures(sigma_mean=-3.5), "duration": 52_000}
# Own features see shapes through much noise, speckle through little; pairs with the teacher's images remove the rest.
COARSE = {**EMOJI, "duration": 68_000, "discriminator": OwnFeatures(sigma_mean=-1.8, sigma_deviation=1.2)}
FINE = {**EMOJI, "duration": 300_000, "discriminator": OwnFeatures(sigma_mean=-3.0, sigma_deviation=1.0)}
EMOJI_PAIRED = {**EMOJI, "objectives": (PAIRED,), "discriminator": Projected(size=64, width=64)}
CLEAN = {**EMOJI_PAIRED, "duration": 50_000, "learning_rate": 2e-4, "data": TeacherImages(count=3_000)}

EDM_PRETRAIN: dict[str, Any] = {  # arXiv 2206.00364, table 7
    "duration": 200_000_000,
    "batch_size": 512,
    "learning_rate_ramp": 10_000_000,
    "learning_rate_decay": "constant",
    "objectives": (Denoising(augmentation=Augmentation()),),
}


class Data(NamedTuple):
    """What a data set's recipes are made for: a network by its name in BACKBONES, image shape [C,H,W] and classes."""

    backbone: str
    image_shape: tuple[int, int, int]
    num_classes: int


DATA: dict[str, Data] = {  # by the beginning of a recipe's name
    "cifar10-small": Data("small", (3, 16, 16), 10),
    "cifar10-32": Data("folded", (3, 32, 32), 10),
    "cifar10": Data("ncsnpp-32", (3, 32, 32), 0),
    "digits": Data("tiny", (1, 8, 8), 10),
    "ffhq64": Data("ncsnpp-64", (3, 64, 64), 0),
    "afhqv2-64": Data("ncsnpp-64", (3, 64, 64), 0),
    "imagenet64": Data("adm-64", (3, 64, 64), 1000),
}


def apply_settings(settings: dict[str, Any], method: str, duration: int) -> Recipe:
    """Return a method with a data set's settings, except for what makes it another method than D2O.

    Objectives that distil a teacher compare images by LPIPS, as the paper's baselines do; PD keeps its own distance.
    """
    recipe = METHODS[method]
    own = {field.name for field in fields(recipe) if getattr(recipe, field.name) != getattr(D2O, field.name)}
    discriminator, usual = recipe.discriminator, settings["discriminator"]
    if isinstance(discriminator, Projected):  # another projection, with the data set's networks and sizes
        discriminator = replace(usual, projection=discriminator.projection)
    elif isinstance(discriminator, Perceptual):
        discriminator = replace(discriminator, size=usual.size, width=usual.width)
    recipe = replace(recipe, **{name: value for name, value in settings.items() if name not in own}, duration=duration)
    measured = ("consistency", "trajectory", "reverse-consistency")
    objectives = tuple(replace(o, distance=Lpips()) if o.kind in measured else o for o in recipe.objectives)  # type: ignore[call-arg]
    return replace(recipe, discriminator=discriminator, objectives=objectives)


RECIPES: dict[str, Recipe] = {
    **METHODS,
    "digits-pretrain": replace(PRETRAIN, **DIGITS_PRETRAIN),
    "digits-flow-pretrain": replace(PRETRAIN, **DIGITS_PRETRAIN, family=FAMILIES["flow"]),
    "digits-flow": replace(D2O_F, **DIGITS),
    "shapes-pretrain": replace(PRETRAIN, **SHAPES_PRETRAIN),
    "shapes-d2o": replace(D2O, **SHAPES),
    "shapes-d2o-f": replace(D2O, **SHAPES, frozen=WORDS_STAY),
    "emoji-pretrain": replace(PRETRAIN, **EMOJI_PRETRAIN),
    "emoji-d2o-f": replace(D2O_F, **EMOJI),
    "emoji-relativistic": replace(D2O_F, **EMOJI_PAIRED),
    "digits-d2o": replace(D2O, **DIGITS),
    "digits-d2o-f": replace(D2O_F, **DIGITS),
    "digits-frechet": replace(D2O_F, **DIGITS_FRECHET),
    "digits-relativistic": replace(D2O_F, **DIGITS | {"objectives": (PAIRED,)}),
    "digits-dmd2": replace(METHODS["dmd2"], **DIGITS | DMD),
    "digits-own-features": replace(D2O_F, **DIGITS | OWN_FEATURES),
    "cifar10-small-pretrain": replace(PRETRAIN, **SMALL_PRETRAIN),
    "cifar10-small-d2o": replace(D2O, **SMALL),
    "cifar10-small-d2o-f": replace(D2O_F, **SMALL),
    "cifar10-small-frechet": replace(D2O_F, **SMALL | MOMENTS, objectives=(SMALL_FRECHET,)),
    "cifar10-small-frechet-gan": replace(D2O_F, **SMALL, objectives=(SMALL_FRECHET, Adversarial())),
    "cifar10-small-d2o-f-best": replace(D2O_F, **SMALL_BEST),
    "cifar10-small-relativistic": replace(D2O_F, **SMALL, objectives=METHODS["d2o-relativistic"].objectives),
    "cifar10-small-own-features": replace(D2O_F, **SMALL | OWN_FEATURES),
    "cifar10-small-dmd2": replace(METHODS["dmd2"], **SMALL | DMD),
    "cifar10-small-dmd2-gan": replace(METHODS["dmd2-gan"], **SMALL | DMD_GAN),
    "cifar10-small-dit-pretrain": replace(PRETRAIN, **SMALL_DIT_PRETRAIN),
    "cifar10-small-dit-d2o": replace(D2O, **SMALL),
    "cifar10-small-dit-d2o-f": replace(D2O, **SMALL, frozen=QUERIES_MOVE),
    "cifar10-small-dit-d2o-f-modulation": replace(D2O, **SMALL, frozen=MODULATION_MOVES),
    "cifar10-small-dit-d2o-f-biases": replace(D2O, **SMALL, frozen=BIASES_MOVE),
    "cifar10-32-pretrain": replace(PRETRAIN, **FOLDED_PRETRAIN),
    "cifar10-32-d2o-f": replace(D2O_F, **FOLDED_BEST),
    "cifar10-pretrain": replace(PRETRAIN, **EDM_PRETRAIN, backbone=BACKBONES["ncsnpp-32"]),
    **{f"cifar10-{name}": apply_settings(CIFAR10, name, 5_000_000) for name in METHODS if name != "pretrain"},
    "cifar10-d2o-200k": apply_settings(CIFAR10, "d2o", 200_000),
    "cifar10-d2o-f-200k": apply_settings(CIFAR10, "d2o-f", 200_000),
    "cifar10-d2o-lite0": apply_settings(CIFAR10 | {"discriminator": full_size(LITE0)}, "d2o", 5_000_000),
    **{f"ffhq64-{name}": apply_settings(FACES64, name, 10_000_000) for name in ("d2o", "d2o-f")},
    **{f"afhqv2-64-{name}": apply_settings(FACES64, name, 10_000_000) for name in ("d2o", "d2o-f")},
    **{f"imagenet64-{name}": apply_settings(IMAGENET64, name, 10_000_000) for name in ("d2o", "d2o-f")},
    "dit-d2o": replace(D2O, **DIT256, duration=5_000_000),
    "dit-d2o-f": replace(D2O, **DIT256, duration=5_000_000, frozen=QUERIES_MOVE),
    "dit-d2o-f-modulation": replace(D2O, **DIT256, duration=5_000_000, frozen=MODULATION_MOVES),
    "dit-d2o-f-biases": replace(D2O, **DIT256, duration=5_000_000, frozen=BIASES_MOVE),
    "coco256-d2o-f": replace(D2O, **TEXT | {"micro_batch_size": 32, "checkpointing": False}, frozen=OF_UNETS),
    "sd15-d2o-f": replace(D2O, **TEXT, frozen=OF_UNETS),
    "sdxl-d2o-f": replace(D2O, **TEXT | {"micro_batch_size": 4}, frozen=OF_UNETS),
    "sd3-d2o-f": replace(D2O, **TEXT | {"micro_batch_size": 4}, frozen=QUERIES_MOVE),
    "sana-d2o-f": replace(D2O, **TEXT | {"micro_batch_size": 2}, frozen=QUERIES_MOVE),
    "flux-d2o-f": replace(D2O, **TEXT | {"micro_batch_size": 1, "duration": 500_000}, frozen=QUERIES_MOVE),
}

OF_DIGITS_TEACHER = replace(D2O_F, **DIGITS | {"duration": 14_000, "data": TeacherImages(count=4_000)})

STAGES: dict[str, Stages] = {
    **STAGED,
    "digits-sketch-gan": Stages(
        (replace(SKETCH, duration=7_000, ema_ramp=0.08), replace(D2O_F, **DIGITS | {"duration": 21_000}))
    ),
    "emoji-coarse-to-fine": Stages(tuple(replace(D2O_F, **stage) for stage in (COARSE, FINE, CLEAN))),
    "digits-teacher-images": Stages((replace(D2O_F, **DIGITS | {"duration": 14_000}), OF_DIGITS_TEACHER)),
    "cifar10-small-sketch-gan": Stages(
        (replace(SKETCH, duration=6_000, ema_ramp=0.1), replace(D2O_F, **SMALL | {"duration": 18_000}))
    ),
}
"""Recipes of several stages."""

PAPER_FID: dict[str, str] = {  # the paper's one-step FID; none of them has been reproduced here yet
    "cifar10-d2o": "1.66",
    "cifar10-d2o-f": "1.54",
    "cifar10-d2o-f-200k": "about 4.1",
    "ffhq64-d2o-f": "0.85",
    "afhqv2-64-d2o": "1.23",
    "afhqv2-64-d2o-f": "1.24",
    "imagenet64-d2o": "1.4 (read from a figure)",
    "imagenet64-d2o-f": "1.16",
}


def find_recipe(name: str) -> Recipe:
    return find(name, RECIPES, "recipe")


def find_any(name: str) -> Recipe | Stages:
    return find(name, {**RECIPES, **STAGES}, "recipe")


def find_backbone(name: str) -> dict[str, Any]:
    return find(name, BACKBONES, "backbone")


def find_family(name: str) -> dict[str, Any]:
    return find(name, FAMILIES, "family to train from random weights")


__all__ = ["BACKBONES", "D2O", "D2O_F", "METHODS", "PRETRAIN", "RECIPES", "SCRATCH", "Recipe", "find_recipe"]
