"""What an objective is: a frozen record that says what the student learns, and all that a run needs to know of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple, Protocol

from pydantic.dataclasses import dataclass as record
from torch import Tensor, nn

from d2o.diffusion.denoiser import Denoiser
from d2o.records import RECORD, Real

from .batch import Batch


@dataclass
class Networks:
    """All networks of a run; those after `ema` are there only if an objective needs them.

    `target` is a short average of the student, `perceptual` the network of a distance between images, `extra` has
    the networks that objectives have under names of their own. `networks["target"]` finds any of them.
    """

    student: Denoiser
    ema: Denoiser
    teacher: Denoiser | None = None
    discriminator: Any = None
    target: Denoiser | None = None
    perceptual: nn.Module | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.by_name().get(name)

    def by_name(self) -> dict[str, Any]:
        named = {row.name: getattr(self, row.name) for row in fields(self) if row.name != "extra"}
        return {name: network for name, network in (named | self.extra).items() if network is not None}


class Turn(NamedTuple):
    """One optimiser step of an iteration: what is minimised, which network moves, and every how many iterations.

    A turn that is not taken in every iteration is not taken in the first one either. It may be several steps, `times`,
    of the same loss.
    """

    name: str
    loss: Callable[[Networks, Batch], Tensor]
    network: str
    every: int = 1
    times: int = 1


class Step(NamedTuple):
    """Where a run stands after an iteration, in images seen."""

    images: int
    batch_size: int
    duration: int

    @property
    def done(self) -> float:
        """The share of the run that lies behind."""
        return self.images / self.duration

    @property
    def before(self) -> float:
        """The share that lay behind before this iteration."""
        return (self.images - self.batch_size) / self.duration


class Passes(Protocol):
    """Passes over the data before training: batches of at most so many images, each at most once, under a title."""

    def __call__(self, count: int, title: str) -> Iterator[Batch]: ...


@record(frozen=True, config=RECORD)
class Objective:
    """The base of all objectives: calling one returns the student's loss per image [N]; the loop averages.

    A plain objective defines its loss alone: everything below has a default that means none.
    """

    kind: str = ""
    weight: Real = 1.0

    needs: ClassVar[tuple[str, ...]] = ()
    """The networks that it wants beside the student: the recipe's "discriminator", or any that it builds."""
    averages: ClassVar[Mapping[str, float]] = {}
    """The moving averages of the student that it wants, with their half-lives in images."""
    judged_by: ClassVar[tuple[str, ...]] = ()
    """Frozen feature networks (timm names) that it shows the student's images, beside the discriminator's."""
    keeps: ClassVar[tuple[str, ...]] = ()
    """Networks that it changes outside of turns, and that therefore belong to the run's state."""
    dropout: ClassVar[bool] = False
    """Whether the student trains with its backbone's dropout."""
    augments: ClassVar[bool] = False
    """Whether the student's network takes the labels of augmented images."""
    shortest: ClassVar[int] = 0
    """The fewest iterations that a run must have."""
    starts: ClassVar[Sequence[Fraction]] = ()
    """Shares of the run at which it starts afresh: with new moments of Adam, the schedule from its beginning, and
    averages that are the student again."""

    def settings_of(self, name: str) -> Any:
        """Return what another objective that needs the network of this name must have alike, to share it."""
        del name

    def __call__(self, networks: Networks, batch: Batch) -> Tensor:
        raise NotImplementedError

    def prepare(self, student: Denoiser) -> Denoiser:
        """Return the student as this objective trains it: another start, or a network that takes more inputs."""
        return student

    def judged_shape(self, student: Denoiser) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of what a discriminator sees, if it needs one."""
        return student.pixel_shape

    def build(self, name: str, teacher: Denoiser, student: Denoiser) -> nn.Module:
        """Return a network that it needs."""
        raise ValueError(f"The objective {self.kind} does not build the network {name!r}.")

    def begin(self, networks: Networks, passes: Passes) -> None:
        """Do what must be done once, before a run's first iteration."""

    def turns(self, networks: Networks) -> Sequence[Turn]:
        """Return the turns that follow the student's in an iteration."""
        return ()

    def after(self, networks: Networks, step: Step) -> None:
        """Do what an iteration ends with."""
