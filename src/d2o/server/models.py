"""The models that a server offers by name: those of the command line, and on the page those that come with d2o."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from d2o.checkpoints import load
from d2o.checkpoints.inspection import warn_about_one_step
from d2o.checkpoints.shipped import SHIPPED, TEACHERS, find_shipped
from d2o.diffusion.denoiser import Denoiser
from d2o.encoders.codec import check_pixels
from d2o.pages.play import describe, describe_prompts


def open_model(name: str, **options: Any) -> Denoiser:
    """Return a denoiser whose images are pixels, by a name as `d2o.load` reads it, and with its options."""
    denoiser = load(name, **options)
    check_pixels(denoiser)
    return denoiser


@dataclass(frozen=True)
class Models:
    """Denoisers by name, the first to be shown first, and of some their teacher's name."""

    denoisers: dict[str, Denoiser]
    teachers: dict[str, str]

    def describe(self) -> list[dict[str, Any]]:
        """Return what the page should know of each; the first of its teachers is the one to show beside it."""

        def row(name: str, denoiser: Denoiser) -> dict[str, Any]:
            more = {"notice": warn_about_one_step(denoiser), "teachers": self.fitting_teachers(name)}
            return {"name": name, **describe(denoiser), **describe_prompts(denoiser), **more}

        return [row(name, denoiser) for name, denoiser in self.denoisers.items()]

    def fitting_teachers(self, name: str) -> list[str]:
        """Return the models that start from the same noise and classes; without a teacher the model itself is first."""
        default, start = self.teachers.get(name, name), start_of(self.denoisers[name])
        fitting = [other for other, denoiser in self.denoisers.items() if start_of(denoiser) == start]
        return sorted(fitting, key=lambda other: other != default)


def offer_models(
    paths: Sequence[str],
    teacher: str | None = None,
    device: str = "cpu",
    codec: str | None = None,
    adapt: Callable[[Denoiser], Denoiser] = lambda denoiser: denoiser,
    **given: Any,
) -> Models:
    """Return the models of the page: those at `paths`, each beside `teacher`, and those that come with d2o.

    Those at `paths` are loaded with the options `given`, and adapted.
    """
    denoisers: dict[str, Denoiser] = {}

    def add(path: str, **options: Any) -> str:
        base = Path(path).name or "model"  # where it lies is nobody else's business
        names = chain([base], (f"{base} ({number})" for number in count(2)))
        name = next(name for name in names if name not in denoisers)
        denoisers[name] = open_model(path, device=device, codec=codec, **options)
        return name

    first = next((student for student, own in TEACHERS.items() if own == teacher), next(iter(TEACHERS)))
    names = [add(path, **given) for path in paths or [first]]
    denoisers = {name: adapt(denoiser) for name, denoiser in denoisers.items()}
    teachers = dict(TEACHERS)
    if teacher is not None:
        beside = add(teacher)
        for name in names:
            if (own := start_of(denoisers[name])) != (found := start_of(denoisers[beside])):
                raise ValueError(f"{teacher} cannot be the teacher of {name}: it makes {found}, not {own}.")
            teachers[name] = beside
    others = {name: load(find_shipped(name), device=device) for name in SHIPPED if name not in denoisers}
    return Models({**denoisers, **others}, teachers)


def start_of(denoiser: Denoiser) -> str:
    """Return what a student and its teacher have in common, so that they can start from the same noise and wish."""
    wish = f"{denoiser.vocabulary} {'classes' if denoiser.reader is None else 'words'}"
    return f"images of {denoiser.image_shape} and {wish}"
