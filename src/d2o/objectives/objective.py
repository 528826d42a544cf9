"""What an objective is, and what it is handed: networks and a batch in, one loss an image out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from zlib import crc32

import torch
from torch import Tensor, nn

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import noise_for, uniform_for


class Discriminator(Protocol):
    """A module that judges images in two halves, so that turns can share the first.

    `features` may be any nested lists of tensors; `judge` returns logits [N, K], one tensor a feature network; calling
    it does both. What a resumed run needs is its `run_state()` (and `load_run_state`), where it has one that leaves
    frozen pre-trained networks out, or else its `state_dict()`.
    """

    def __call__(self, images: Tensor, label: Tensor | None = None) -> list[Tensor]: ...

    def features(self, images: Tensor) -> list: ...

    def judge(self, features: list, label: Tensor | None = None) -> list[Tensor]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


@dataclass
class Networks:
    """All networks of a run; those after `ema` are there only if an objective needs them.

    `target` is a short average of the student, `perceptual` the network of a distance between images. `kept` names
    those besides student and ema that change in a run and so belong to its state.
    """

    student: Denoiser
    ema: Denoiser
    teacher: Denoiser | None = None
    discriminator: Discriminator | None = None
    target: Denoiser | None = None
    perceptual: nn.Module | None = None
    kept: tuple[str, ...] = ()


@dataclass
class Batch:
    """Real images x0 [N,C,H,W] in [-1, 1] with their labels [N] or None, and the random numbers that go with them.

    Every random number is a function of (`seed`, the image's place in the stream, what it is for): a resumed run and
    a run on more processes draw the same ones. `shared` is where one turn leaves its work for the next; `done` is the
    share of the run, 0 to 1, that lies behind; `number` tells images of the data set apart, so that what is known of
    them can be remembered (None: every image is new).
    """

    x0: Tensor
    label: Tensor | None
    index: Sequence[int]
    seed: int = 0
    shared: dict[str, Any] = field(default_factory=dict)
    done: float = 0.0
    number: Sequence[int] | None = None

    def noise(self, purpose: str, shape: Sequence[int] | None = None) -> Tensor:
        """Return unit normal noise [N, *shape], by default of x0's shape."""
        return noise_for(self._keys(purpose), self.x0.shape[1:] if shape is None else shape, self.x0.device)

    def uniform(self, purpose: str, count: int) -> Tensor:
        """Return uniform numbers [N, count] in (0, 1)."""
        return uniform_for(self._keys(purpose), count, self.x0.device)

    def choices(self, purpose: str, count: int) -> list[int]:
        """Return random whole numbers from 0 to below `count`, one an image."""
        return (uniform_for(self._keys(purpose), 1)[:, 0] * count).long().clamp(max=count - 1).tolist()

    def _keys(self, purpose: str) -> list[int]:
        stream = (self.seed % 2**32) << 96 | crc32(purpose.encode()) << 64
        return [stream | position for position in self.index]

    def __len__(self) -> int:
        return len(self.x0)

    def split(self, size: int) -> list["Batch"]:
        """Cut into batches of at most `size` images that share nothing."""
        label, number = self.label, self.number
        return [
            Batch(
                self.x0[i : i + size],
                None if label is None else label[i : i + size],
                self.index[i : i + size],
                self.seed,
                done=self.done,
                number=None if number is None else number[i : i + size],
            )
            for i in range(0, len(self), size)
        ]


class Objective(Protocol):
    """A frozen record of numbers that says what the student should learn.

    `kind` is its name in a recipe; `needs` names the networks it wants; `dropout` tells whether the student trains
    with dropout. Calling it returns the loss per image [N]; the loop averages.
    """

    @property
    def kind(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def needs(self) -> tuple[str, ...]: ...

    dropout: bool

    def __call__(self, networks: Networks, batch: Batch) -> Tensor: ...


def detach(tree: Any) -> Any:
    """Detach every tensor in nested lists."""
    return tree.detach() if isinstance(tree, torch.Tensor) else [detach(branch) for branch in tree]
