"""One-step generators as a safetensors file with its description as JSON, inside and once more beside it."""

import json
from pathlib import Path

from d2o.checkpoints import delta, load, native
from d2o.diffusion.denoiser import Denoiser
from d2o.files import atomic

from .one_step import difference, numbers, one_step, rounded
from .options import Options


def write(denoiser: Denoiser, path: Path, options: Options) -> tuple[float, tuple[str, ...]]:
    """Write a safetensors file, load it again, and return how far its images are from the denoiser's, and notes."""
    spec = native.describe(denoiser)
    native.write(path, rounded(denoiser.state_dict(), options.dtype), spec)
    again = load(path)
    error = difference(denoiser, lambda noise, label: one_step(again, noise, label))
    return error, ("loads with d2o.load; its JSON stands in its metadata under `d2o`",)


def write_delta(denoiser: Denoiser, path: Path, options: Options, base: Denoiser) -> tuple[float, tuple[str, ...]]:
    """Write a safetensors file of what moved since `base`, load it upon the base, and return the error and notes."""
    tensors = denoiser.state_dict()
    moved, about_base = delta.diff(denoiser, base)
    native.write(path, rounded(moved, options.dtype), native.describe(denoiser) | about_base)
    again = load(path, base=base)
    error = difference(denoiser, lambda noise, label: one_step(again, noise, label))
    whole = sum(tensor.nbytes for tensor in tensors.values())
    size = max(sum(tensor.nbytes for tensor in rounded(moved, options.dtype).values()), 1)
    return error, (
        f"{len(moved)} of {len(tensors)} tensors moved: {size / 1e6:.2f} MB, {whole / size:.1f} times smaller than all",
        "loads with d2o.load(path, base=...) or --base, upon the model that the run started from",
    )


def write_description(denoiser: Denoiser, path: Path) -> Path:
    """Write what is needed to run the weights elsewhere as a JSON file beside `path`: network, formula, one step."""
    beside = path.with_suffix(".json")
    record = native.describe(denoiser) | {"one_step": {"sigma": denoiser.sigma_max, **numbers(denoiser)}}
    with atomic(beside) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    return beside
