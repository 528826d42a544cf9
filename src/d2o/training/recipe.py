"""A recipe: the frozen record that a run is. It round-trips through JSON, and nothing else decides the result."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import accumulate, pairwise, permutations
from math import ceil
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator
from pydantic.dataclasses import dataclass

from d2o.diffusion.families import from_spec
from d2o.discriminators import DISCRIMINATORS, Projected
from d2o.objectives import OBJECTIVES
from d2o.objectives.distance import DISTANCES
from d2o.records import RECORD, REGISTER, Real, Whole, adapter, find, nearest, validate


def one_of(table: Mapping[str, type], what: str, default: str | None = None) -> Callable[[Any], Any]:
    """Return the validator of a record whose `kind` is a row of a table, which may grow until it is read.

    `default` is the kind of a mapping that names none.
    """

    def validate(value: Any) -> Any:
        if isinstance(value, tuple(table.values())):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"it is not a record with the kind of {what}")
        kind = value.get("kind", default)
        record = find(kind, table, f"{what} of the kind", REGISTER.rstrip("."))
        return adapter(record).validate_python({**value, "kind": kind})

    return validate


def check_family(spec: dict[str, Any]) -> dict[str, Any]:
    from_spec(spec)
    return spec


AnyObjective = Annotated[Any, PlainValidator(one_of(OBJECTIVES, "objective"))]
AnyDiscriminator = Annotated[Any, PlainValidator(one_of(DISCRIMINATORS, "discriminator", default="projected"))]
Images = Annotated[Whole, Field(ge=1)]
Rate = Annotated[Real, Field(gt=0)]
Share = Annotated[Real, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=RECORD)
class TeacherImages:
    """Images of the run's teacher, sampled once, to be taken for the real ones.

    There are `count`, of the classes or captions of the data, in so many `steps` of the teacher's sampler, and with
    this scale of classifier-free `guidance`.
    """

    kind: Literal["teacher"] = "teacher"
    count: Images = 10_000
    steps: Images = 18
    guidance: Real = 1.0


def by_kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


@dataclass(frozen=True, config=RECORD)
class Recipe:
    """Which objectives, from which weights, what stays frozen, how long. Durations are counted in images seen."""

    objectives: Annotated[tuple[AnyObjective, ...], Field(min_length=1)]
    """Losses of the student, added up with their weights."""
    duration: Images = 200_000
    """Images to train on."""
    data: Annotated[TeacherImages | None, BeforeValidator(by_kind)] = None
    """The images to train on: those that are given, or "teacher", its own, as TeacherImages says."""
    batch_size: Images = 64
    """Images an iteration, over all processes."""
    micro_batch_size: Images | None = None
    """Images that pass through the networks at once; gradients are accumulated. Default: all of the process's."""
    checkpointing: bool = False
    """Keep for the gradient the inputs of the student's blocks alone, and the images of frozen feature networks: blocks
    run again for it, and the networks a few images at a time. Less memory, more time. Decoders of latents always do."""
    pretrained: bool = True
    """Start from the given weights; if not, from random ones."""
    frozen: tuple[str, ...] = ()
    """What stays frozen: roles (convolution), or name:PATTERN, block:PATTERN, resolution:SIDE, all-but:RULE."""
    backbone: dict[str, Any] | None = None
    """The network of a recipe that starts from random weights: {"kind": ..., settings}; sizes come from the data."""
    family: Annotated[dict[str, Any], AfterValidator(check_family)] | None = None
    """How that network predicts: {"kind": ..., settings}; EDM's way by default."""
    discriminator: AnyDiscriminator = Projected()
    learning_rate: Rate = 1e-4
    discriminator_learning_rate: Rate = 1e-4
    """Of the discriminator, and of any other network that takes turns with the student."""
    betas: tuple[Share, Share] = (0.0, 0.99)
    """Adam's, of student and discriminator alike."""
    learning_rate_ramp: Annotated[Whole, Field(ge=0)] = 0
    """Images over which the student's learning rate rises from 0."""
    learning_rate_decay: Literal["constant", "linear", "cosine"] = "constant"
    """linear: falls to 0 over the second half of the run; cosine: over all of it. For both networks."""
    ema_half_life: Rate = 500_000
    """Images after which half of the averaged weights is replaced."""
    ema_ramp: Rate | None = 0.05
    """Bounds the half-life by this share of the images seen so far."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the backbones of student and teacher, and the decoder of latents; the rest is float32, and so are the
    backbones where one call multiplies their errors, which are noise predictors from a high level."""
    tf32: bool = False
    """Train with TF32 on CUDA: factors of float32 products are rounded to 10 bits. Images that are looked at never
    are: sampling and evaluation compute in float32."""
    frozen_precision: Literal["float32", "bfloat16"] = "float32"
    """In which frozen matrices and convolutions are kept: bfloat16 rounds them once, and takes half the memory."""
    optimizer: Literal["adam", "adam-bfloat16", "adam-8bit"] = "adam"
    """Adam with its moments in float32, or by torchao in bfloat16 or in 8 bits (arXiv 2110.02861)."""
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 0

    def __post_init__(self) -> None:
        kinds = [objective.kind for objective in self.objectives]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise ValueError(f"the objective {twice} is listed twice: list it once, with its weight")
        for objective, other in permutations(self.objectives, 2):
            if changed := set(objective.keeps) & set(other.needs):
                raise ValueError(f"{objective.kind} changes its {min(changed)}, so {other.kind} cannot share it")
            for name in set(objective.needs) & set(other.needs):
                if objective.settings_of(name) != other.settings_of(name):
                    raise ValueError(f"{objective.kind} and {other.kind} share one {name}: give it one setting")
        for objective in self.objectives:
            if self.duration < objective.shortest * self.batch_size:
                raise ValueError(
                    f"{objective.kind} needs at least {objective.shortest} iterations: set duration to "
                    f"{objective.shortest * self.batch_size} or more"
                )

    @property
    def needs(self) -> set[str]:
        return {name for objective in self.objectives for name in objective.needs}

    @property
    def averages(self) -> dict[str, float]:
        """The moving averages of the student that the objectives want, with the longest half-life asked for."""
        rows = [row for objective in self.objectives for row in objective.averages.items()]
        return dict(sorted(rows, key=lambda row: row[1]))

    def span(self, images: int) -> tuple[int, int]:
        """Return the images at which the part of the run begins and ends in which a moment lies.

        It is the whole run, unless its objectives start afresh: then parts begin with an iteration each.
        """
        starts = sorted({start for objective in self.objectives for start in objective.starts})
        begins = [0, *(self.batch_size * ceil(start * self.duration / self.batch_size) for start in starts)]
        return max(b for b in begins if b <= images), min((b for b in begins if b > images), default=self.duration)

    @property
    def augments(self) -> bool:
        return any(objective.augments for objective in self.objectives)

    @property
    def diffuses(self) -> bool:
        """Whether it trains a diffusion model."""
        return all(objective.kind == "denoising" for objective in self.objectives)

    @property
    def judged_by(self) -> tuple[str, ...]:
        """The feature networks of the discriminator, as far as there is one, and of the objectives."""
        own = self.discriminator.networks if "discriminator" in self.needs else ()
        return tuple(dict.fromkeys((*own, *(name for one in self.objectives for name in one.judged_by))))


@dataclass(frozen=True, config=RECORD)
class Stages:
    """Recipes of one run, one after another: each begins with the averaged student of the one before it.

    What imitates a teacher, in any of them, imitates the one that the run was given.
    """

    stages: Annotated[tuple[Recipe, ...], Field(min_length=1)]

    def __post_init__(self) -> None:
        if not all(stage.pretrained for stage in self.stages[1:]):
            raise ValueError("a stage after the first keeps what has been learned: set its pretrained to true")

    @property
    def duration(self) -> int:
        return sum(stage.duration for stage in self.stages)


R = TypeVar("R", bound=Recipe | Stages)


def to_dict(recipe: Recipe | Stages) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(recipe)))


def from_dict(values: Mapping[str, Any]) -> Any:
    """Return the Recipe, or Stages, that `to_dict` wrote.

    All that is wrong is named in one ValueError, with the nearest key.
    """
    kinds = {**OBJECTIVES, **DISTANCES, **DISCRIMINATORS, "teacher": TeacherImages, "": Projected}  # "": of 0.1.0
    if not isinstance(rows := values.get("stages"), list | tuple):
        return validate(Recipe, values, "This recipe", kinds)
    stages = [validate(Recipe, row, f"Stage {number} of this recipe", kinds) for number, row in enumerate(rows, 1)]
    return validate(Stages, {**values, "stages": stages}, "This recipe")


def change(recipe: R, path: str, value: Any) -> R:
    """Return the recipe with one field changed, by its dotted path: `learning_rate`, `objectives.0.r1`.

    Of stages, `stages.0.learning_rate` is the first one's. Other paths change each of them; `duration` is that of all
    together, and each keeps its share.
    """
    if isinstance(recipe, Stages) and path == "duration":
        total = validate(Images, value, "The duration")
        ends = [total * done // recipe.duration for done in accumulate(stage.duration for stage in recipe.stages)]
        lengths = (end - start for start, end in pairwise([0, *ends]))
        rows = zip(recipe.stages, lengths, strict=True)
        return from_dict({"stages": [change(stage, path, length) for stage, length in rows]})
    if isinstance(recipe, Stages) and path.partition(".")[0] != "stages":
        return from_dict({"stages": [change(stage, path, value) for stage in recipe.stages]})

    def find_key(place: Any, name: str) -> Any:
        keys = range(len(place)) if isinstance(place, list) else place if isinstance(place, dict) else ()
        known = {str(key): key for key in keys}
        if name not in known:
            remedy = nearest(name, known) if known else "the key above it is not set."
            raise ValueError(f"A recipe has no {path!r}: {remedy}")
        return known[name]

    values = place = to_dict(recipe)
    *parents, last = path.split(".")
    for name in parents:
        place = place[find_key(place, name)]
    place[find_key(place, last)] = value
    return from_dict(values)
