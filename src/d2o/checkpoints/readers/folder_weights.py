"""The tensors of a model folder: safetensors before torch files, whole or in several parts with an index."""

import hashlib
import json
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from d2o.checkpoints import native
from d2o.checkpoints.pickles import torch_state
from d2o.errors import MalformedCheckpointError, UnsafeCheckpointError

STEM = "diffusion_pytorch_model"
NAMES = (  # the first that exists is read
    f"{STEM}.safetensors",
    f"{STEM}.safetensors.index.json",
    f"{STEM}.fp16.safetensors",
    f"{STEM}.bin",
    f"{STEM}.bin.index.json",
    f"{STEM}.fp16.bin",
)
LARGEST_INDEX = 2**26


def read(folder: Path, ghosts: bool = False) -> dict[str, Tensor]:
    """Return all tensors of a model folder; with `ghosts` on the meta device, only their types and shapes are read."""
    tensors: dict[str, Tensor] = {}
    for file, wanted in files(folder).items():
        found = read_file(file, ghosts)
        missing = [name for name in wanted or () if name not in found]
        if missing:
            raise MalformedCheckpointError(f"{file} lacks the tensor {missing[0]!r} that its index promises.")
        tensors |= found if wanted is None else {name: found[name] for name in wanted}
    return tensors


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of weights."""
    digests = {}
    for file in files(folder):
        with file.open("rb") as stream:
            digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def files(folder: Path) -> dict[Path, list[str] | None]:
    """Return the files of weights, each with the tensors that are wanted of it, None for all."""
    for name in NAMES:
        if (folder / name).is_file():
            return indexed(folder / name) if name.endswith(".json") else {folder / name: None}
    raise MalformedCheckpointError(
        f"{folder} has no weights: none of {', '.join(NAMES)} is there; download the whole folder."
    )


def indexed(index: Path) -> dict[Path, list[str] | None]:
    """Return the files that an index names; a name that leads out of the folder is refused."""
    parts: dict[Path, Any] = defaultdict(list)
    for tensor, name in weight_map(index).items():
        if not isinstance(name, str) or PurePosixPath(name).name != name or "\\" in name or not name.strip("."):
            raise UnsafeCheckpointError(
                f"{index} sends the reader to {str(name)[:100]!r}, outside of its own folder. Nothing was loaded."
            )
        if not (index.parent / name).is_file():
            raise MalformedCheckpointError(f"{index} names the file {name[:100]!r}, which is missing.")
        parts[index.parent / name].append(tensor)
    return dict(parts)


def weight_map(index: Path) -> dict[str, Any]:
    """Return which tensor is in which file."""
    try:
        if index.stat().st_size > LARGEST_INDEX:
            raise ValueError("it is too large")
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(names, dict) or not names:
            raise ValueError("it names no tensors")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedCheckpointError(f"{index} is not an index of weights ({str(error)[:100]}).") from error
    return names


def read_file(file: Path, ghosts: bool) -> dict[str, Tensor]:
    """Return the tensors of one file."""
    if file.suffix != ".safetensors":
        return torch_state.read_state(file, ghosts=ghosts)
    with native.opened(file) as opened:
        return native.tensors_of(opened, ghosts)
