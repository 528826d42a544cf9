"""What the CIFAR-10 study compares: its sizes, and its rows as recipes, each a line away from D2O.

Every mark is a run of its own, whose schedules end there. Every method has the same number of short trials first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from d2o.discriminators import Projected, StyleGAN2
from d2o.objectives import Adversarial
from d2o.training.recipe import Recipe, Stages, change
from d2o.training.recipes import BACKBONES, METHODS, RECIPES, STAGES

Settings = Mapping[str, Any]
"""Fields of a recipe by their dotted paths, as `d2o finetune --set` takes them."""
TEACHER_STEPS = (2, 3, 5, 9, 18)
"""Steps (Heun's) of the teachers that students imitate, for the distance between teacher and student."""
REAL = (500, 2_000, 10_000)
"""Real images of the small data sets."""
TRIAL_SEED = 100
TARGET_DECAY = 0.95
"""What the targets of distillation keep in an iteration (arXiv 2303.01469), whatever the batch."""


@dataclass(frozen=True)
class Row:
    """One run: a method by its name, the images that it sees, and its seed.

    `recipe` is the method's before its trials. It may be given some of the `real` images alone, imitate a teacher of so
    many `steps`, or be a student of the `transformer`. A `trial` tries settings, and is judged for that only.
    """

    method: str
    recipe: Recipe | Stages
    images: int
    seed: int = 0
    real: int | None = None
    steps: int | None = None
    transformer: bool = False
    trial: Settings | None = None
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.method)

    @property
    def key(self) -> str:
        tried = "" if self.trial is None else f"-trial{TRIALS[self.method].index(self.trial)}"
        return f"{self.name}-{self.images:08d}-seed{self.seed}{tried}"

    def taken(self, chosen: Settings) -> Settings:
        """Return what this run takes of the chosen settings: not the steps where it has its own."""
        return {path: value for path, value in chosen.items() if self.steps is None or not path.endswith(".steps")}

    def settled(self, chosen: Settings) -> Recipe | Stages:
        """Return the recipe with the chosen settings, as long as this run."""
        recipe = self.recipe
        for path, value in {**self.taken(chosen), "duration": self.images, "seed": self.seed}.items():
            recipe = change(recipe, path, value)
        return recipe


@dataclass(frozen=True)
class Size:
    """How large a study is. Everything is counted in images.

    `teacher` names a model, or none: then the study trains one by `pretrain`, of a `backbone` where that is given.
    Every row is run at the `marks`; those of CLAIMED at `long` ones, too.
    """

    name: str
    resolution: int
    held_out: int
    classifier: int
    views: int
    marks: tuple[int, ...]
    long: tuple[int, ...]
    trials: int
    examined: int
    settings: dict[str, Any]
    teacher: str | None = None
    transformer: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)
    real: tuple[int, ...] = REAL
    resize: str | None = None
    mirror: bool = True
    pretrain: str = "cifar10-small-pretrain"
    pretrain_images: int = 0
    backbone: dict[str, Any] | None = None
    methods: tuple[str, ...] = field(default=())


BOTH = ("learning_rate", "discriminator_learning_rate")
STYLEGAN2 = {"discriminator": StyleGAN2(channels=2048, width=128)}


def rates(value: float) -> dict[str, Any]:
    return dict.fromkeys(BOTH, value)


RATES = ({}, rates(6e-4), {"betas": (0.5, 0.99)})
TEACHING = ({}, {"learning_rate": 1e-3}, {"objectives.0.steps": 9})
MATCHING = ({}, {"learning_rate": 5e-4}, {"objectives.0.fake_steps": 5})
TRIALS: dict[str, tuple[Settings, ...]] = {
    "d2o": RATES,
    "d2o-f": RATES,
    "d2o-f-best": ({}, rates(6e-4), {"objectives.0.sigma": 10.0, "objectives.1.sigma": 10.0}),
    "cd": TEACHING,
    "pd": ({}, {"learning_rate": 1e-3}, {"learning_rate": 1e-3, "objectives.0.steps": 8}),
    "ctm": TEACHING,
    "cd-gan": ({}, rates(6e-4), {"objectives.0.weight": 0.1}),
    "scratch": ({}, rates(1e-3), {"betas": (0.5, 0.99)}),
    "stylegan2": ({}, {"learning_rate": 1e-4}, {"objectives.0.r1": 0.1}),
    "frechet": ({}, {"learning_rate": 3e-4}, {"objectives.0.population": "queue"}),
    "frechet-gan": ({}, rates(6e-4), {"learning_rate": 1e-3}),
    "dmd2": MATCHING,
    "dmd2-gan": MATCHING,
    "released-projections": RATES,
    "own-features": ({}, {"discriminator.sigma_mean": -3.5}, {"discriminator.sigma_mean": -2.0}),
    "sketch-gan": ({}, {"stages.1.learning_rate": 6e-4}, {"stages.0.learning_rate": 3e-4}),
    "dit-flow-d2o-f": RATES,
    "dit-flow-d2o": RATES,
}
"""What each method tries, first what its recipe says; the best is taken for all of its runs."""
CLAIMED = ("d2o-f", "d2o", "d2o-f-best", "cd", "dmd2-gan")
FROZEN_AND_FULL = ("d2o-f", "d2o")


def recipes(size: Size) -> dict[str, Recipe | Stages]:
    """Return every method by its name, in the order in which they are run."""
    seen = replace(METHODS["d2o"], **size.settings, objectives=(Adversarial(),))
    frozen = replace(seen, frozen=METHODS["d2o-f"].frozen)
    plain = {name: value for name, value in size.settings.items() if "discriminator" not in name}

    def like(name: str, **settings: Any) -> Recipe:
        """Return a method of the library, where it is no GAN with its own optimiser."""
        method = METHODS[name]
        lag = -math.log(2) / math.log(TARGET_DECAY) * seen.batch_size
        known = {"target_half_life": lag}
        objectives = tuple(
            replace(one, **known if hasattr(one, "target_half_life") else {}) for one in method.objectives
        )
        return replace(seen, objectives=objectives, betas=method.betas, frozen=method.frozen, **settings)

    def small(name: str) -> Recipe:
        """Return a recipe for CIFAR-10 at 16x16 as it is, with what the size changes."""
        changed = {key: size.settings[key] for key in ("batch_size", "discriminator")}
        return replace(RECIPES[f"cifar10-small-{name}"], **changed)

    sketch = STAGES["cifar10-small-sketch-gan"].stages
    table: dict[str, Recipe | Stages] = {
        "d2o-f": frozen,
        "cd": like("cd"),
        "d2o": seen,
        "d2o-f-best": small("d2o-f-best"),
        "pd": like("pd"),
        "ctm": like("ctm"),
        "cd-gan": like("cd-gan"),
        "dmd2-gan": small("dmd2-gan"),
        "dmd2": small("dmd2"),
        "frechet-gan": small("frechet-gan"),
        "frechet": small("frechet"),
        "stylegan2": replace(METHODS["d2o-stylegan2"], **plain, **STYLEGAN2),
        "scratch": replace(seen, pretrained=False),
        "released-projections": change(frozen, "discriminator.projection_weights", "released"),
        "own-features": replace(RECIPES["cifar10-small-own-features"], batch_size=size.settings["batch_size"]),
        "sketch-gan": Stages(tuple(replace(stage, discriminator=size.settings["discriminator"]) for stage in sketch)),
    }
    return {name: recipe for name, recipe in table.items() if not size.methods or name in size.methods}


def trials(size: Size) -> list[Row]:
    """Return the short runs that choose every method's settings."""

    def tried(table: Mapping[str, Recipe | Stages], transformer: bool) -> list[Row]:
        return [
            Row(name, recipe, size.trials, TRIAL_SEED, transformer=transformer, trial=trial)
            for name, recipe in table.items()
            for trial in TRIALS[name]
        ]

    return [*tried(recipes(size), False), *tried(of_transformer(size), True)]


def of_transformer(size: Size) -> dict[str, Recipe]:
    """Return the methods whose students are transformers, by their names."""
    judged = {"discriminator": size.settings["discriminator"]}
    return {
        f"dit-flow-{name}": replace(RECIPES[f"cifar10-small-dit-{name}"], **judged)
        for name in FROZEN_AND_FULL
        if size.transformer
    }


def rows(size: Size) -> list[Row]:
    """Return all runs in the order in which they are made: the first mark of all seeds, then what claims need."""
    table = recipes(size)
    first, *later = size.marks

    def at(images: int, names: Any = None) -> list[Row]:
        wanted = [name for name in table if names is None or name in names]
        return [Row(name, table[name], images, seed) for seed in size.seeds for name in wanted]

    few = [
        Row(name, table[name], later[0] if later else first, seed, real=real, name=f"{name}-real{real}")
        for seed in size.seeds
        for real in size.real
        for name in FROZEN_AND_FULL
        if name in table
    ]
    imitators = [
        Row("cd", change(table["cd"], "objectives.0.steps", steps), first, seed, steps=steps, name=f"cd-{steps}")
        for seed in size.seeds
        for steps in TEACHER_STEPS
        if "cd" in table
    ]
    transformers = [
        Row(name, recipe, images, seed, transformer=True)
        for images in size.marks
        for seed in size.seeds
        for name, recipe in of_transformer(size).items()
    ]
    longer = [row for images in later for row in at(images)]
    longest = [row for images in size.long for row in at(images, CLAIMED)]
    return [*at(first), *imitators, *longer, *few, *transformers, *longest]


SMALL = RECIPES["cifar10-small-d2o"]
GAN: dict[str, Any] = {
    name: getattr(SMALL, name)
    for name in (
        "batch_size", "learning_rate", "discriminator_learning_rate", "learning_rate_decay", "ema_ramp",
        "discriminator",
    )
}  # fmt: skip
FULL = Size(
    name="cifar10-16",
    resolution=16,
    held_out=10_000,
    classifier=300_000,
    views=150_000,
    marks=(6_000, 24_000),
    long=(100_000, 200_000),
    trials=6_000,
    examined=2_000,
    settings=GAN,
    teacher="cifar10-small-teacher",
    transformer=RECIPES["cifar10-small-dit-pretrain"].duration,
    resize="area",
)
QUICK = Size(
    name="quick",
    resolution=8,
    held_out=400,
    classifier=512,
    views=512,
    marks=(192, 256),
    long=(),
    trials=160,
    examined=64,
    settings={**GAN, "batch_size": 32, "discriminator": Projected(size=32, width=16, weights="random")},
    transformer=64,
    seeds=(0,),
    real=(64,),
    mirror=False,
    pretrain_images=512,
    backbone={**BACKBONES["small"], "attention_resolutions": [4]},
)
SIZES = {size.name: size for size in (FULL, QUICK)}
