"""Our own format: one safetensors file that holds a denoiser's weights and, as JSON in its header, its description."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from d2o import backbones
from d2o.diffusion import families as preconditioning
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import CheckpointError, MalformedCheckpointError, MismatchError, UnsupportedCheckpointError
from d2o.files import atomic

from . import delta

FORMAT = 1
SPEC = "d2o"
"""The metadata key under which the JSON description stands."""
MOST_STEPS = 1000
LONGEST = 300
"""Characters that are quoted of what is wrong with a description: a hostile one may be endless."""


def save(path: str | os.PathLike, denoiser: Denoiser, base: Denoiser | None = None) -> None:
    """Write a denoiser to one file, under a temporary name first; its backbone must be of a registered kind.

    With `base`, the model that it was fine-tuned from, only the tensors that moved: `load` then wants the same base.
    """
    spec = describe(denoiser)
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in denoiser.state_dict().items()}
    if base is not None:
        tensors, spec["base"] = delta.moved(tensors, base)
        spec["content"] = delta.CONTENT
    write(path, tensors, spec)


def load(
    path: str | os.PathLike, device: torch.device | str = "cpu", ghosts: bool = False, base: Denoiser | None = None
) -> Denoiser:
    """Read a denoiser from a file or a run directory (its averaged student); in eval mode.

    With `ghosts` it is on the meta device, and no weights are read. `base` is what the rest of a file is taken from
    that holds only what has moved. Everything that can be wrong is a CheckpointError.
    """
    path = locate(Path(path))
    tensors, spec = read(path, ghosts)
    if spec.get("content") == "run":  # the checkpoint of an unfinished run
        tensors = {name.removeprefix("ema."): tensor for name, tensor in tensors.items() if name.startswith("ema.")}
    denoiser = build(path, spec)
    if spec.get("content") == delta.CONTENT:
        if ghosts:
            return denoiser.eval()
        if base is None:
            raise delta.needed(path)
        tensors = delta.completed(path, tensors, spec, base)
    elif base is not None:
        raise CheckpointError(f"{path} is complete and needs no base: leave it out.")
    fill(path, denoiser, tensors)
    return denoiser.eval() if ghosts else placed(denoiser, device).eval()


def placed(denoiser: Denoiser, device: torch.device | str) -> Denoiser:
    """Put a denoiser on a device; one that there is not is a ValueError."""
    try:
        return denoiser.to(device)
    except (RuntimeError, AssertionError) as error:  # torch's words for no such device, no driver, no memory
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"The model cannot be put on the device {str(device)!r} ({reason}); cpu always works."
        ) from error


def describe(denoiser: Denoiser) -> dict[str, Any]:
    """Return the JSON description from which `build` makes the same denoiser with other weights."""
    kind = getattr(denoiser.backbone, "kind", None)
    if kind not in backbones.BACKBONES:
        raise CheckpointError(
            f"A backbone of class {type(denoiser.backbone).__name__} cannot be described in a file; give it a `kind` "
            f"and a `config`, and add it to d2o.backbones.BACKBONES."
        )
    return {
        "format": FORMAT,
        "content": "denoiser",
        "backbone": {"kind": kind, **denoiser.backbone.config},  # type: ignore[dict-item]
        "preconditioning": preconditioning.to_spec(denoiser.preconditioning),
        "image_shape": list(denoiser.image_shape),
        "num_classes": denoiser.num_classes,
        "provenance": denoiser.provenance,
        **({"middle_sigmas": list(denoiser.middle_sigmas)} if denoiser.middle_sigmas else {}),
    }


def build(path: Path, spec: dict[str, Any]) -> Denoiser:
    """Make the denoiser that a description asks for, on the meta device: no memory is taken."""
    try:
        with torch.device("meta"):
            backbone = backbones.build(spec["backbone"])
        shape, classes, provenance = spec["image_shape"], spec["num_classes"], spec.get("provenance") or {}
        check(backbone, shape, classes)
        if not isinstance(provenance, dict):
            raise ValueError("its provenance is not a record")
        denoiser = Denoiser(backbone, preconditioning.from_spec(spec["preconditioning"]), shape, classes, provenance)
        denoiser.middle_sigmas = walk(spec.get("middle_sigmas", []), denoiser.sigma_max)
        return denoiser
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error).rstrip(".")
        reason = reason if len(reason) <= LONGEST else reason[:LONGEST] + "..."
        raise UnsupportedCheckpointError(f"{path} describes a network that cannot be built: {reason}.") from error


def walk(sigmas: Any, sigma_max: float) -> tuple[float, ...]:
    """Return the middle sigmas of a description; ValueError where they do not fall from `sigma_max` to above 0."""
    known = isinstance(sigmas, list) and len(sigmas) <= MOST_STEPS and all(type(s) in (int, float) for s in sigmas)
    if not known or not all(a > b > 0 for a, b in pairwise([sigma_max, *sigmas])):
        raise ValueError(f"its middle_sigmas, {sigmas}, do not fall from {sigma_max:g} to above 0")
    return tuple(map(float, sigmas))


def check(backbone: torch.nn.Module, shape: Any, classes: Any) -> None:
    """Raise a ValueError when a description's image shape [C, H, W] or classes are not those of its network."""
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(side) is int and side > 0 for side in shape)):
        raise ValueError(f"image_shape is {shape}, not three whole numbers")
    config: Any = backbone.config
    given = {"in_channels": shape[0], "resolution": shape[1], "num_classes": classes}
    for name, value in given.items():
        if type(value) is not int or value != config.get(name, value):
            raise ValueError(f"the network's {name} is {config.get(name)}, but its images are described by {value}")
    if "resolution" in config and shape[1] != shape[2]:
        raise ValueError(f"the network makes square images, but image_shape is {shape}")


def fill(path: Path, module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put `tensors` into a module, names and shapes exactly; the first five differences are named."""
    wanted = module.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is not part of the network" for name in tensors if name not in wanted]
    problems += [
        f"{name} has shape {list(tensors[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise MismatchError(f"{path} does not fit the network that it describes: {'; '.join(problems[:5])}{more}.")
    dtypes = {name: wanted[name].dtype for name in tensors}
    module.load_state_dict({name: t.to(dtypes[name]) for name, t in tensors.items()}, strict=True, assign=True)


def locate(path: Path) -> Path:
    """Return the checkpoint that a path stands for: itself, or what a run directory has come to."""
    if path.is_dir():
        for name in ("ema.safetensors", "checkpoint.safetensors"):
            if (path / name).exists():
                return path / name
        raise CheckpointError(f"{path} is a folder without a checkpoint of d2o: name a file or a run directory.")
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    return path


def read(path: Path, ghosts: bool = False) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors (with `ghosts`: only their shapes) and the JSON description of one of our files."""
    with opened(path) as file:
        return tensors_of(file, ghosts), description(path, file.metadata())


def tensors_of(file: Any, ghosts: bool = False) -> dict[str, torch.Tensor]:
    """Return all tensors of an open safetensors file; with `ghosts` on the meta device, their shapes only."""
    names = file.keys()
    if ghosts:
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}
    return {name: file.get_tensor(name) for name in names}


def header(path: Path) -> dict[str, Any]:
    """Return the JSON description of one of our files, without its tensors."""
    with opened(path) as file:
        return description(path, file.metadata())


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; what is wrong with it is a MalformedCheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise MalformedCheckpointError(f"{path} is not a readable safetensors file ({error}).") from error


def description(path: Path, metadata: dict[str, str] | None) -> dict[str, Any]:
    """Return the JSON description that stands in a file's metadata."""
    try:
        spec = json.loads((metadata or {})[SPEC])
    except (KeyError, ValueError, RecursionError) as error:
        message = f"{path} is a safetensors file without d2o's description of the network."
        raise UnsupportedCheckpointError(message) from error
    if not isinstance(spec, dict) or spec.get("format") != FORMAT:
        raise UnsupportedCheckpointError(f"{path} has a description of another format than this version's, {FORMAT}.")
    return spec


def write(path: str | os.PathLike, tensors: dict[str, torch.Tensor], spec: dict[str, Any]) -> None:
    """Write tensors and their description to one file, completely or not at all."""
    with atomic(Path(path)) as temporary:
        save_file(tensors, temporary, {SPEC: json.dumps(spec)})
