"""One-step generators as a safetensors file with its description as JSON, inside and once more beside it."""

import json
from pathlib import Path

from d2o.checkpoints import delta, load, native
from d2o.diffusion.denoiser import Denoiser
from d2o.files import atomic

from .one_step import Options, cast, compare, compute_step, sample_one_step


def write(
    denoiser: Denoiser, path: Path, options: Options, base: Denoiser | None = None
) -> tuple[float, tuple[str, ...]]:
    """Write a safetensors file, or with `base` the difference to it; return the error of its images, and notes."""
    state = dict(denoiser.state_dict())
    tensors, spec = state, native.describe(denoiser)
    if base is not None:
        tensors, about_base = delta.diff(denoiser, base)
        spec |= {"content": native.DELTA} | about_base
    tensors = cast(tensors, options.dtype)
    native.write(path, tensors, spec)
    again = load(path, base=base)
    error = compare(denoiser, lambda noise, label: sample_one_step(again, noise, label))
    if base is None:
        return error, ("loads with d2o.load; its JSON stands in its metadata under `d2o`",)
    whole, size = (sum(tensor.nbytes for tensor in part.values()) for part in (state, tensors))
    return error, (
        f"{len(tensors)} of {len(state)} tensors differ: {size / 1e6:.2f} of {whole / 1e6:.2f} MB",
        "loads with d2o.load(path, base=...) or --base, on the model that the run started from",
    )


def write_description(denoiser: Denoiser, path: Path) -> Path:
    """Write what is needed to run the weights elsewhere as a JSON file beside `path`: network, formula, one step."""
    beside = path.with_suffix(".json")
    record = native.describe(denoiser) | {"one_step": {"sigma": denoiser.sigma_max, **compute_step(denoiser)}}
    with atomic(beside) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    return beside
