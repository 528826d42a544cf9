"""What the CIFAR-10 study compares: its sizes, and its rows as recipes, each a line away from D2O."""

import math
from dataclasses import dataclass, replace
from typing import Any

from d2o.discriminators import Projected, StyleGAN2
from d2o.objectives import Adversarial, Consistency, Progressive
from d2o.training.recipe import Recipe
from d2o.training.recipes import METHODS, RECIPES

TARGET_DECAY = 0.95
"""What consistency distillation's target keeps in an iteration (arXiv 2303.01469), whatever the batch."""
TEACHER_STEPS = (2, 4, 9, 18)
"""Steps (Heun's) of the teachers that students imitate, for the distance between teacher and student."""


@dataclass(frozen=True)
class Size:
    """How large a study is. Everything is counted in images."""

    name: str
    resolution: int
    held_out: int
    teacher: int
    classifier: int
    marks: tuple[int, ...]
    examined: int
    settings: dict[str, Any]
    resize: str | None = None
    mirror: bool = True


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
    resize="area",
)
QUICK = Size(
    "quick", 8, 400, 512, 512, (96, 192), 64,
    {**GAN, "batch_size": 32, "discriminator": Projected(size=32, width=16, weights="random")}, mirror=False,
)  # fmt: skip


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


def rows(size: Size) -> list[Row]:
    """Return the students in the order in which they are trained: first seeds first."""
    seen = replace(METHODS["d2o"], **size.settings, objectives=(Adversarial(),), duration=size.marks[-1])
    consistency = Consistency(target_half_life=-math.log(2) / math.log(TARGET_DECAY) * seen.batch_size)
    beside = replace(consistency, weight=METHODS["cd-gan"].objectives[0].weight)
    table: dict[str, Recipe] = {
        "d2o": seen,
        "d2o-f": replace(seen, frozen=METHODS["d2o-f"].frozen),
        "cd": replace(seen, objectives=(consistency,)),
        "pd": replace(seen, objectives=(Progressive(),)),
        "cd-gan": replace(seen, objectives=(beside, Adversarial())),
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
