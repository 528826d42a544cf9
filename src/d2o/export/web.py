"""One-step generators as a web page: a folder for any static server, in which the browser makes the images itself."""

import json
from pathlib import Path
from typing import Any

import d2o
from d2o.diffusion.condition import Words
from d2o.diffusion.denoiser import Denoiser
from d2o.encoders.codec import makes_latents
from d2o.errors import CheckpointError
from d2o.pages.play import describe, describe_prompts, play_files

from .one_step import Options
from .programs import write_onnx, write_prediction
from .runtime import runtime_files

MOST_STEPS = 40
"""Steps of a teacher's sampler that the page can be asked for."""


def write(denoiser: Denoiser, path: Path, options: Options) -> tuple[float, tuple[str, ...]]:
    """Write page, ONNX model and runtime into a folder; return how far the model's images are, and notes."""
    if makes_latents(denoiser):
        raise CheckpointError("A web page shows models of grey or RGB pixels, not latent ones: use --to onnx.")
    teacher = options.teacher
    if teacher and what_is_told(teacher) != what_is_told(denoiser):
        raise CheckpointError("The --teacher makes images of another size, or has other conditions: name its own.")
    version, runtime = runtime_files(options.runtime)
    path.mkdir()
    error, _ = write_onnx(denoiser, path / "model.onnx", options)
    facts = {
        "title": options.title or "One call per image",
        **describe(denoiser),
        **describe_prompts(denoiser),
        **describe_words(denoiser),
        "teacher": describe_teacher(teacher) if teacher else None,
        "sigma": denoiser.sigma_max,
        "d2o": d2o.__version__,
        "onnxruntime-web": version,
    }
    notes = [] if teacher is None else [f"of its teacher's: {write_prediction(teacher, path / 'teacher.onnx'):.1e}"]
    (path / "model.json").write_text(json.dumps(facts, indent=2) + "\n")
    (path / "runtime").mkdir()
    for name, content in play_files("browser").items():
        (path / name).write_bytes(content)
    for name, content in runtime.items():
        (path / "runtime" / name).write_bytes(content)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return error, (
        *notes,
        f"{size / 1e6:.1f} MB; any static server can serve it, for example `python -m http.server` within it",
        f"onnxruntime-web {version} (MIT licence) stands in its runtime folder",
    )


def what_is_told(denoiser: Denoiser) -> tuple[Any, ...]:
    return denoiser.image_shape, denoiser.vocabulary, describe_words(denoiser)


def describe_words(denoiser: Denoiser) -> dict[str, Any]:
    """Return the words that a model knows, in the order of their numbers, and how many it reads."""
    reader = denoiser.reader
    return {"words": reader.words, "length": reader.length} if isinstance(reader, Words) else {}


def describe_teacher(teacher: Denoiser) -> dict[str, Any]:
    """Return what the page needs for a teacher's sampler: the noise levels of each number of steps, and its rule."""
    family = teacher.preconditioning
    sigmas = {steps: family.sigmas(steps) for steps in range(2, MOST_STEPS + 1)}
    return {**describe(teacher), "sigmas": sigmas, "solved_in_time": family.solved_in_time}
