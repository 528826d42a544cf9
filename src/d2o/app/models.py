"""The models that the page offers: those of the command line, those that come with d2o, and uploads."""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from d2o.checkpoints import CheckpointError, load
from d2o.checkpoints.shipped import SHIPPED, TEACHERS, shipped
from d2o.data.codec import attach, check_pixels
from d2o.diffusion.denoiser import Denoiser

UPLOADS = 4
"""Uploaded models that are kept; the oldest makes room."""
LARGEST_SIDE = 512
"""Pixels of an uploaded model's images: what a stranger's file may ask this machine to draw."""


@dataclass
class Models:
    """Denoisers by name; those that come with d2o are read at their first use.

    A path that is one of their names stands for theirs: write ./digits-teacher for a file of that name.
    `partners` names the teacher of a one-step generator; `codec` is the autoencoder's folder for latent models.
    """

    device: str = "cpu"
    codec: str | None = None
    opened: dict[str, Denoiser] = field(default_factory=dict)
    partners: dict[str, str] = field(default_factory=lambda: dict(TEACHERS))
    uploads: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def names(self) -> list[str]:
        """The names, the caller's own models first."""
        with self.lock:
            return [*self.opened, *(name for name in SHIPPED if name not in self.opened)]

    def get(self, name: object) -> Denoiser:
        """Return a denoiser; a ValueError for a name that is not offered: a path or address is never followed."""
        with self.lock:
            if isinstance(name, str) and name in self.opened:
                return self.opened[name]
            if not isinstance(name, str) or name not in SHIPPED:
                raise ValueError(f"There is no model {str(name)[:100]!r} here; choose {', '.join(self.names)}.")
            self.opened[name] = load(shipped(name), device=self.device)
            return self.opened[name]

    def add(self, name: str) -> None:
        """Read a model of the command line: a path, an address, or the name of one that comes with d2o."""
        shown = self.get(name) if name in SHIPPED else self.showable(load(name, device=self.device))
        self.opened[name] = shown

    def upload(self, path: str | Path, name: str) -> str:
        """Read an uploaded file as data and return the name it is offered under; nothing in it names another file."""
        shown = re.sub(r"[^\w .()+-]", "_", Path(name).name)[-80:] or "upload"
        try:
            denoiser = load(path, device=self.device)
        except CheckpointError as error:
            raise ValueError(str(error).replace(str(path), shown)) from error
        denoiser = denoiser.replace(codec=None)  # a folder that the file names is a folder of this machine
        if max(denoiser.image_shape) > LARGEST_SIDE:
            sides = " x ".join(map(str, denoiser.image_shape[1:]))
            raise ValueError(f"{shown} makes images of {sides} pixels; uploads may have {LARGEST_SIDE} a side.")
        self.showable(denoiser)
        with self.lock:
            taken, number = shown, 2
            while taken in self.names:
                taken, number = f"{shown} ({number})", number + 1
            self.opened[taken] = denoiser
            self.uploads.append(taken)
            while len(self.uploads) > UPLOADS:
                del self.opened[self.uploads.pop(0)]
        return taken

    def showable(self, denoiser: Denoiser) -> Denoiser:
        """Return a denoiser whose images are pixels, with the command line's codec if it is one of latent images."""
        try:
            check_pixels(denoiser)
        except ValueError:
            if self.codec is None:
                raise
            denoiser = attach(denoiser, self.codec)
        return denoiser

    def teacher_of(self, name: str) -> str:
        """Return the teacher that is shown beside a model: its partner, or else the model itself in many calls."""
        return self.partners.get(name, name)


def models(names: Sequence[str], teacher: str | None = None, device: str = "cpu", codec: str | None = None) -> Models:
    """Return the page's models: those named, each beside `teacher`, and those that come with d2o."""
    offered = Models(device, codec)
    names = names or [next(iter(SHIPPED))]
    for name in names:
        offered.add(name)
    if teacher is not None:
        offered.add(teacher)
        for name in names:
            pair(offered.get(name), offered.get(teacher), name, teacher)
            offered.partners[name] = teacher
    return offered


def pair(student: Denoiser, teacher: Denoiser, name: str, teacher_name: str) -> None:
    """Raise a ValueError for a teacher that cannot start from the student's noise and class."""
    for what, ours, theirs in (
        ("image shape", student.image_shape, teacher.image_shape),
        ("number of classes", student.num_classes, teacher.num_classes),
    ):
        if ours != theirs:
            raise ValueError(f"{teacher_name} is no teacher for {name}: its {what} is {theirs}, not {ours}.")
