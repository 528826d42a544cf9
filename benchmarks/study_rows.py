"""What the CIFAR-10 study compares: its sizes, and its rows as recipes, each a line away from D2O."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from d2o.discriminators import Projected, StyleGAN2
from d2o.objectives import Adversarial, Consistency, Progressive
from d2o.training.freezing import BIASES_MOVE, MODULATION_MOVES, QUERIES_MOVE
from d2o.training.recipe import Recipe
from d2o.training.recipes import BACKBONES, METHODS, RECIPES

TARGET_DECAY = 0.95
"""What consistency distillation's target keeps in an iteration (arXiv 2303.01469), whatever the batch."""
TEACHER_STEPS = (2, 4, 9, 18)
"""Steps (Heun's) of the teachers that students imitate, for the distance between teacher and student."""


@dataclass(frozen=True)
class Row:
    """One line of the comparison: a recipe with a seed, examined at every mark; `steps` of the teacher it imitates."""

    name: str
    recipe: Recipe
    seed: int = 0
    marks: tuple[int, ...] = ()
    steps: int | None = None

    @property
    def key(self) -> str:
        return f"{self.name}-seed{self.seed}"


@dataclass(frozen=True)
class Size:
    """How large a study is, and which students it has. Everything is counted in images.

    The teacher is trained by the recipe `pretrain`, with another `backbone` where one is given.
    """

    name: str
    resolution: int
    held_out: int
    teacher: int
    classifier: int
    marks: tuple[int, ...]
    examined: int
    settings: dict[str, Any]
    rows: "Callable[[Size], list[Row]]"
    resize: str | None = None
    mirror: bool = True
    pretrain: str = "cifar10-small-pretrain"
    backbone: dict[str, Any] | None = None


def paper_rows(size: Size) -> list[Row]:
    """Return the students of the paper's comparison in the order in which they are trained: first seeds first."""
    seen = replace(METHODS["d2o"], **size.settings, objectives=(Adversarial(),), duration=size.marks[-1])
    consistency = Consistency(target_half_life=-math.log(2) / math.log(TARGET_DECAY) * seen.batch_size)
    beside = replace(consistency, weight=METHODS["cd-gan"].objectives[0].weight)
    table: dict[str, Recipe] = {
        "d2o": seen,
        "d2o-f": replace(seen, frozen=METHODS["d2o-f"].frozen),
        "cd": replace(seen, objectives=(consistency,)),
        "pd": replace(seen, objectives=(Progressive(),)),
        "cd-gan": replace(seen, objectives=(beside, Adversarial())),
        **{name: moments(seen, RECIPES[f"cifar10-small-{name}"]) for name in ("frechet", "frechet-gan")},
        "scratch": replace(seen, pretrained=False),
        "d2o-stylegan2": replace(
            METHODS["d2o-stylegan2"],
            **{name: size.settings[name] for name in size.settings if "discriminator" not in name},
            discriminator=StyleGAN2(channels=2048, width=128),
            duration=size.marks[-1],
        ),
    }
    first = [Row(name, recipe, 0, size.marks) for name, recipe in table.items()]
    again = [Row(name, replace(table[name], seed=1), 1, size.marks) for name in ("d2o", "d2o-f", "cd")]
    short = size.marks[:-1]
    imitators = []
    for steps in TEACHER_STEPS:
        recipe = replace(seen, objectives=(replace(consistency, steps=steps),), duration=short[-1])
        imitators.append(Row(f"cd-{steps}", recipe, 0, short, steps))
    return [*first, *again, *imitators]


def moments(seen: Recipe, like: Recipe) -> Recipe:
    """Return a recipe with the objectives of another, as frozen and with its learning rate."""
    return replace(seen, objectives=like.objectives, frozen=like.frozen, learning_rate=like.learning_rate)


def transformer_rows(size: Size) -> list[Row]:
    """Return the students of a transformer: nothing frozen, and three ways to freeze it, each with two seeds."""
    frozen = {
        "d2o": (),
        "d2o-f": QUERIES_MOVE,
        "d2o-f-modulation": MODULATION_MOVES,
        "d2o-f-biases": BIASES_MOVE,
    }
    seen = replace(METHODS["d2o"], **size.settings, objectives=(Adversarial(),), duration=size.marks[-1])
    return [
        Row(name, replace(seen, frozen=rules, seed=seed), seed, size.marks)
        for seed in (0, 1)
        for name, rules in frozen.items()
    ]


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
    teacher=RECIPES["cifar10-small-pretrain"].duration,
    classifier=300_000,
    marks=(SMALL.duration // 4, SMALL.duration // 2, SMALL.duration),
    examined=2_000,
    settings=GAN,
    rows=paper_rows,
    resize="area",
)
TRANSFORMER = replace(
    FULL,
    name="cifar10-16-dit",
    teacher=RECIPES["cifar10-small-dit-pretrain"].duration,
    marks=FULL.marks[:-1],
    rows=transformer_rows,
    pretrain="cifar10-small-dit-pretrain",
)
QUICK = Size(
    "quick", 8, 400, 512, 512, (96, 192), 64,
    {**GAN, "batch_size": 32, "discriminator": Projected(size=32, width=16, weights="random")}, paper_rows,
    mirror=False, backbone={**BACKBONES["small"], "attention_resolutions": [4]},
)  # fmt: skip
QUICK_TRANSFORMER = replace(
    QUICK, name="quick-dit", rows=transformer_rows, pretrain="cifar10-small-dit-pretrain", backbone=None
)
SIZES = {size.name: size for size in (FULL, TRANSFORMER, QUICK, QUICK_TRANSFORMER)}
