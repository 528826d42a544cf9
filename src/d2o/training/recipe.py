"""A recipe: the frozen record that a run is. It round-trips through JSON, and nothing else decides the result."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from d2o.discriminators import DISCRIMINATORS, Convolutional, Perceptual, Projected, StyleGAN2
from d2o.objectives import OBJECTIVES, Adversarial, Consistency, Denoising, Progressive, ReverseConsistency, Trajectory
from d2o.objectives.distance import DISTANCES
from d2o.records import RECORD, Real, Whole, nearest

Objective = Annotated[
    Denoising | Adversarial | Consistency | Progressive | Trajectory | ReverseConsistency, Field(discriminator="kind")
]


def projected_by_default(value: Any) -> Any:
    """Read a discriminator without a kind as the projected one, which was once the only one."""
    return {"kind": "projected", **value} if isinstance(value, Mapping) else value


Discriminator = Annotated[
    Projected | StyleGAN2 | Perceptual | Convolutional,
    Field(discriminator="kind"),
    BeforeValidator(projected_by_default),
]
Images = Annotated[Whole, Field(ge=1)]
Rate = Annotated[Real, Field(gt=0)]
Share = Annotated[Real, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=RECORD)
class Recipe:
    """Which objectives, from which weights, what stays frozen, how long. Durations are counted in images seen."""

    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)]
    """Losses of the student, added up with their weights."""
    duration: Images = 200_000
    """Images to train on."""
    batch_size: Images = 64
    """Images an iteration, over all processes."""
    micro_batch_size: Images | None = None
    """Images that pass through the networks at once; gradients are accumulated. Default: all of the process's."""
    pretrained: bool = True
    """Start from the given weights; if not, from random ones."""
    frozen: tuple[str, ...] = ()
    """What does not move: roles (convolution), or name:PATTERN, block:PATTERN, resolution:SIDE, all-but:RULE."""
    backbone: dict[str, Any] | None = None
    """The network of a recipe that starts from nothing: {"kind": ..., settings}; sizes come from the data."""
    discriminator: Discriminator = Projected()
    learning_rate: Rate = 1e-4
    discriminator_learning_rate: Rate = 1e-4
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
    """Of the backbones of student and teacher; weights, sums and the discriminator stay float32."""
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 0

    def __post_init__(self) -> None:
        kinds = [objective.kind for objective in self.objectives]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise ValueError(f"the objective {twice} is there twice: name it once, with its weight")
        pupils = [objective.kind for objective in self.objectives if "teacher" in objective.needs]
        rounds = next((objective.rounds for objective in self.objectives if isinstance(objective, Progressive)), 0)
        if rounds and len(pupils) > 1:
            other = next(kind for kind in pupils if kind != "progressive")
            raise ValueError(f"progressive changes its teacher in every round, so {other} cannot learn from it too")
        if self.duration < rounds * self.batch_size:
            raise ValueError(
                f"progressive has {rounds} rounds of at least an iteration each: let duration be "
                f"{rounds * self.batch_size} or more"
            )
        distances = [o.distance for o in self.objectives if "perceptual" in o.needs]  # type: ignore[union-attr]
        if any(distance != distances[0] for distance in distances):
            raise ValueError("objectives that compare by LPIPS share one: give them the same settings of lpips")

    @property
    def needs(self) -> set[str]:
        """The networks that the objectives want besides the student."""
        return {name for objective in self.objectives for name in objective.needs}

    @property
    def judged_by(self) -> tuple[str, ...]:
        """The discriminator's feature networks, as far as there is a discriminator."""
        return self.discriminator.networks if "discriminator" in self.needs else ()


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the JSON form of a recipe."""
    return json.loads(json.dumps(asdict(recipe)))


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe that `to_dict` wrote; all that is wrong is named in one ValueError, with the nearest key."""
    try:
        return TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        raise ValueError(f"This recipe cannot be used: {explain(error)}.") from error


def change(recipe: Recipe, path: str, value: Any) -> Recipe:
    """Return the recipe with one field changed, by its dotted path: `learning_rate`, `objectives.0.r1`."""
    values: Any = to_dict(recipe)
    place, names = values, path.split(".")
    for name in names[:-1]:
        place = _enter(place, name, path)
    _enter(place, names[-1], path)
    place[int(names[-1]) if isinstance(place, list) else names[-1]] = value
    return from_dict(values)


def _enter(place: Any, name: str, path: str) -> Any:
    if isinstance(place, list) and name.isdigit() and int(name) < len(place):
        return place[int(name)]
    if isinstance(place, dict) and name in place:
        return place[name]
    known = (
        list(place)
        if isinstance(place, dict)
        else [str(i) for i in range(len(place))]
        if isinstance(place, list)
        else []
    )
    raise ValueError(f"A recipe has no {path!r}: {nearest(name, known)}")


def explain(error: ValidationError) -> str:
    """Return pydantic's list of errors as one sentence with paths and nearest names."""
    parts = []
    for item in error.errors():
        steps = [str(step) for step in item["loc"]]
        if not steps:  # of the recipe as a whole
            parts.append(item["msg"].removeprefix("Value error, "))
            continue
        kinds = [step for step in steps[:-1] if step in RECORDS]  # pydantic names the kind; a recipe's path does not
        where = ".".join(step for step in steps if step not in kinds)
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = [f.name for f in fields(RECORDS[kinds[-1]] if kinds else Recipe)]
            parts.append(f"unknown key {where!r} ({nearest(steps[-1], known)})")
        else:
            parts.append(f"{where} is {item['input']!r}: {item['msg'].lower()}")
    return "; ".join(parts)


RECORDS: dict[str, Any] = {**OBJECTIVES, **DISTANCES, **DISCRIMINATORS}
"""The records that a recipe holds, by their kinds."""

__all__ = ["Recipe", "change", "explain", "from_dict", "nearest", "replace", "to_dict"]
