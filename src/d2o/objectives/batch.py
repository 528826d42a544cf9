"""One batch of a training iteration: real images, labels, and random numbers that are a function of their place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import noise_for, uniform_for


@dataclass
class Batch:
    """Real images x0 [N,C,H,W] in [-1, 1] with their condition or None, and the random numbers that go with them.

    Where a data set was encoded before, x0 is None, and `latents` [N,c,h,w] are what the student works on. Objectives
    ask for `latents_for` the student, or `pixels_for` a discriminator, and need not know which of the two was given.

    Every random number is a function of (`seed`, the image's place in the stream, what it is for): a resumed run and
    a run on more processes draw the same ones. `shared` is where one turn leaves its work for the next; `done` is the
    share of the run, 0 to 1, that lies behind; `number` identifies images of the data set, so that their features can
    be cached (None: every image is new).
    """

    x0: Tensor | None
    condition: Any
    index: Sequence[int]
    seed: int = 0
    shared: dict[str, Any] = field(default_factory=dict)
    done: float = 0.0
    number: Sequence[int] | None = None
    latents: Tensor | None = None

    @property
    def given(self) -> Tensor:
        """What the data set gave: pixels, or latents."""
        given = self.latents if self.x0 is None else self.x0
        if given is None:
            raise ValueError("A batch needs images: give it x0 in pixels, or latents.")
        return given

    @property
    def device(self) -> torch.device:
        return self.given.device

    def latents_for(self, student: Denoiser) -> Tensor:
        """Return the real images as the student works on them [N,c,h,w]; pixels are encoded once."""
        return self._once("latents", lambda: student.encode(self.given)) if self.latents is None else self.latents

    @torch.no_grad()
    def pixels_for(self, student: Denoiser) -> Tensor:
        """Return the real images in pixels [N,C,H,W]; latents are decoded once."""
        return self._once("pixels", lambda: student.decode(self.given)) if self.x0 is None else self.x0

    def _once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        if name not in self.shared:
            self.shared[name] = make()
        return self.shared[name]

    def noise(self, purpose: str, shape: Sequence[int] | None = None) -> Tensor:
        """Return unit normal noise [N, *shape], by default of the shape of what was given."""
        return noise_for(self.seeds(purpose), self.given.shape[1:] if shape is None else shape, self.device)

    def uniform(self, purpose: str, count: int) -> Tensor:
        """Return uniform numbers [N, count] in (0, 1)."""
        return uniform_for(self.seeds(purpose), count, self.device)

    def choices(self, purpose: str, count: int) -> list[int]:
        """Return random whole numbers from 0 to below `count`, one an image."""
        return (uniform_for(self.seeds(purpose), 1)[:, 0] * count).long().clamp(max=count - 1).tolist()

    def seeds(self, purpose: str) -> list[int]:
        """Return what all random numbers of an image for this purpose are a function of."""
        stream = (self.seed % 2**32) << 96 | crc32(purpose.encode()) << 64
        return [stream | position for position in self.index]

    def __len__(self) -> int:
        return len(self.given)

    def split(self, size: int) -> list["Batch"]:
        rows = {name: getattr(self, name) for name in ("x0", "latents", "condition", "index", "number")}
        return [
            replace(self, **{name: row if row is None else row[i : i + size] for name, row in rows.items()}, shared={})
            for i in range(0, len(self), size)
        ]


def read_batch(given: Any, denoiser: Denoiser, seed: int = 0, done: float = 0.0) -> Batch:
    """Return a batch of a data set on the device of a model, told what this model is: captions, classes, or nothing.

    `given` is (x0, classes [N] or None, place [N]), and may have `latents`, `captions`, and a `number` of each image.
    """
    device, number = denoiser.device, getattr(given, "number", None)
    x0, latents = (
        None if row is None else row.to(device, memory_format=torch.channels_last)
        for row in (given[0], getattr(given, "latents", None))
    )
    number = None if number is None else number.tolist()
    told = given[1] if denoiser.reader is None else denoiser.reader(given.captions)
    condition = None if told is None or not denoiser.vocabulary else told.to(device)
    return Batch(x0, condition, given[2].tolist(), seed, done=done, number=number, latents=latents)
