"""One-step generators for the world outside: safetensors with JSON, diffusers, ONNX, torch programs, web pages."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from d2o.checkpoints import load
from d2o.checkpoints.inspection import warn_about_one_step
from d2o.checkpoints.publication import CARD, find_card, read_fields
from d2o.diffusion.condition import TextWidth
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import CheckpointError
from d2o.files import atomic, check_file, check_folder

from . import card, pipelines, plain, programs, web
from .one_step import DTYPES, Options


class Format(NamedTuple):
    """A form of export: its writer, and how its file's name ends; a folder's has no ending."""

    write: Callable[[Denoiser, Path, Options], tuple[float, tuple[str, ...]]]
    suffix: str


FORMATS = {
    "safetensors": Format(plain.write, ".safetensors"),
    "diffusers": Format(pipelines.write, ""),
    "onnx": Format(programs.write_onnx, ".onnx"),
    "torch": Format(programs.write_torch, ".pt2"),
    "web": Format(web.write, ""),
}
DELTA = "delta"
"""One form more, which needs a base: a safetensors file of the weights that differ from it."""


@dataclass(frozen=True)
class Exported:
    """What was written. `error` is the largest difference to the denoiser's images, which span -1 to 1.

    `card` is the file of its model card.
    """

    path: Path
    error: float
    notes: tuple[str, ...]
    card: Path


def export(
    denoiser: Denoiser,
    path: str | os.PathLike,
    to: str,
    *,
    dtype: str = "float32",
    codec: str | None = None,
    base: Denoiser | str | os.PathLike | None = None,
    runtime: str | None = None,
    title: str | None = None,
    teacher: Denoiser | None = None,
    source: str | os.PathLike | None = None,
    license: str | None = None,
) -> Exported:
    """Write a denoiser as a one-step generator, load what was written, and compare its images with the denoiser's.

    `to` is one of FORMATS, or `delta` for the difference to `base`. `dtype`, `codec`, `runtime`, `title` and `teacher`
    are those of Options; without a `runtime` it is fetched. A model card is written with it: `source`, where the
    denoiser was loaded from, tells it the data and numbers of a run, and `license` is one of the hub's identifiers, by
    default that of the teacher.
    """
    if to not in (*FORMATS, DELTA):
        raise CheckpointError(f"There is no export format {to!r}; there are {', '.join((*FORMATS, DELTA))}.")
    if (base is None) == (to == DELTA):
        raise CheckpointError("An export to delta, and only that, needs the base that the model was fine-tuned from.")
    if dtype not in DTYPES:
        raise CheckpointError(f"Weights cannot be stored as {dtype!r}; there are {', '.join(DTYPES)}.")
    if denoiser.middle_sigmas and to not in ("safetensors", DELTA):
        steps = 1 + len(denoiser.middle_sigmas)
        raise CheckpointError(f"This generator takes {steps} steps, but a {to} file has one: use --to safetensors.")
    forms = ["safetensors", DELTA, *(["diffusers"] if isinstance(denoiser.vocabulary, TextWidth) else [])]
    forms += ["web"] if denoiser.blends else []
    if card.is_told_text(denoiser) and to not in forms:
        raise CheckpointError(f"This generator reads captions, which a {to} file cannot: use --to safetensors.")
    license = license and card.check_license(license)
    check_output(os.fspath(path), to)
    base_name = None if base is None or isinstance(base, Denoiser) else card.strip_folders(os.fspath(base))
    base = base if base is None or isinstance(base, Denoiser) else load(base)
    form = FORMATS[to] if base is None else Format(partial(plain.write, base=base), ".safetensors")
    path, alone = Path(path), deepcopy(denoiser).cpu().float().eval()
    options = Options(dtype, codec, runtime, title, teacher and deepcopy(teacher).cpu().float().eval())
    page = find_card(path, in_folder=not form.suffix)
    with atomic(path) as temporary:
        error, notes = form.write(alone, temporary, options)
        if to not in ("safetensors", DELTA) and (warning := warn_about_one_step(denoiser)):
            notes += (warning,)
        made = card.Made(to, temporary, path.name, error, notes, base_name)
        text = card.write_card(denoiser, made, card.Origin.of(source), license)
        with nullcontext(temporary / CARD) if page.parent == path else atomic(page) as written:
            written.write_text(text, encoding="utf-8")
    if to == "safetensors":
        notes += (f"and beside it in {plain.write_description(alone, path).name}",)
    remedy = "" if "license" in read_fields(page) else ", and has no licence yet: use --license, or fill it in"
    return Exported(path, error, (*notes, f"its model card is {page}{remedy}"), page)


def check_output(asked: str, to: str) -> None:
    path, suffix = Path(asked), ".safetensors" if to == DELTA else FORMATS[to].suffix
    if path.suffix and path.suffix != suffix and path.suffix in [form.suffix for form in FORMATS.values()]:
        raise CheckpointError(f"The name {path} does not fit the format {to}: end it in {suffix or 'no suffix'}.")
    if not suffix and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(f"{path} exists already: name a new folder.")
    (check_file if suffix else check_folder)(asked)
    page = find_card(path, in_folder=not suffix)
    if os.path.lexists(page) and not card.is_card(page):
        raise CheckpointError(
            f"{page}, where its model card belongs, is something else: choose another name than {path}."
        )


__all__ = ["FORMATS", "Exported", "check_output", "export"]
