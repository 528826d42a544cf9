"""One batch of a training iteration: real images, labels, and random numbers that are a function of their place."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import noise_for, uniform_for


def read_condition(given: Any, denoiser: Denoiser) -> Any:
    """Return what a batch of a data set says of its images, as far as this model is told: captions, classes, or None.

    `given` is (x0, classes [N] or None, place [N]), and has `captions`.
    """
    told = given[1] if denoiser.reader is None else denoiser.reader(given.captions)
    return None if told is None or not denoiser.vocabulary else told.to(denoiser.device)


@dataclass
class Batch:
    """Real images x0 [N,C,H,W] in [-1, 1] with their condition or None, and the random numbers that go with them.

    Every random number is a function of (`seed`, the image's place in the stream, what it is for): a resumed run and
    a run on more processes draw the same ones. `shared` is where one turn leaves its work for the next; `done` is the
    share of the run, 0 to 1, that lies behind; `number` identifies images of the data set, so that their features can
    be cached (None: every image is new).
    """

    x0: Tensor
    condition: Any
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
        rows = {"x0": self.x0, "condition": self.condition, "index": self.index, "number": self.number}
        return [
            replace(self, **{name: row if row is None else row[i : i + size] for name, row in rows.items()}, shared={})
            for i in range(0, len(self), size)
        ]
