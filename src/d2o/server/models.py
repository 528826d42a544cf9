"""The models that a server offers by name: those of the command line, and on the page those that come with d2o."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2o.checkpoints import load
from d2o.checkpoints.inspection import warn_about_one_step
from d2o.checkpoints.shipped import SHIPPED, TEACHERS, shipped
from d2o.data.codec import check_pixels
from d2o.diffusion.denoiser import Denoiser


def open_model(name: str, device: str = "cpu", codec: str | None = None) -> Denoiser:
    """Return a denoiser whose images are pixels, by a name as `d2o.load` reads it."""
    denoiser = load(name, device=device, codec=codec)
    check_pixels(denoiser)
    return denoiser


@dataclass(frozen=True)
class Models:
    """Denoisers by name, the first to be shown first, and of some their teacher's name."""

    denoisers: dict[str, Denoiser]
    teachers: dict[str, str]

    def describe(self) -> list[dict[str, Any]]:
        """Return what the page should know of each; the first of its teachers is the one to show beside it."""
        return [
            {
                "name": name,
                "image_shape": denoiser.pixel_shape,
                "num_classes": denoiser.num_classes,
                "parameters": sum(parameter.numel() for parameter in denoiser.parameters()),
                "notice": warn_about_one_step(denoiser),
                "teachers": self.fitting_teachers(name),
            }
            for name, denoiser in self.denoisers.items()
        ]

    def fitting_teachers(self, name: str) -> list[str]:
        """Return the models that start from the same noise and classes; without a teacher the model itself is first."""
        default = self.teachers.get(name, name)
        fitting = [other for other, teacher in self.denoisers.items() if not mismatch(self.denoisers[name], teacher)]
        return sorted(fitting, key=lambda other: other != default)


def offer_models(
    paths: Sequence[str], teacher: str | None = None, device: str = "cpu", codec: str | None = None
) -> Models:
    """Return the models of the page: those at `paths`, each beside `teacher`, and those that come with d2o."""
    denoisers: dict[str, Denoiser] = {}

    def add(path: str) -> str:
        name = base = Path(path).name or "model"  # where it lies is nobody else's business
        number = 1
        while name in denoisers:
            number += 1
            name = f"{base} ({number})"
        denoisers[name] = open_model(path, device, codec)
        return name

    names = [add(path) for path in paths or [next(iter(SHIPPED))]]
    teachers = dict(TEACHERS)
    if teacher is not None:
        beside = add(teacher)
        for name in names:
            if problem := mismatch(denoisers[name], denoisers[beside]):
                raise ValueError(f"{teacher} is no teacher for {name}: {problem}.")
            teachers[name] = beside
    own = {name: load(shipped(name), device=device) for name in SHIPPED if name not in denoisers}
    return Models({**denoisers, **own}, teachers)


def mismatch(student: Denoiser, teacher: Denoiser) -> str | None:
    """Return why a teacher cannot start from a student's noise and class, or None if it can."""
    if teacher.image_shape != student.image_shape:
        return f"its image shape is {teacher.image_shape}, not {student.image_shape}"
    if teacher.num_classes != student.num_classes:
        return f"its number of classes is {teacher.num_classes}, not {student.num_classes}"
    return None
