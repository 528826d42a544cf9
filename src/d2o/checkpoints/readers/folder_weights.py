"""The files of a model folder: JSON, and tensors in safetensors before torch files, whole or in indexed parts."""

from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from d2o.checkpoints import native
from d2o.errors import MalformedCheckpointError, UnsafeCheckpointError
from d2o.files import parse_json, read_bytes, sha256_of
from d2o.pickles import torch_state

STEM = "diffusion_pytorch_model"
NAMES = (  # the first that exists is read
    f"{STEM}.safetensors",
    f"{STEM}.safetensors.index.json",
    f"{STEM}.fp16.safetensors",
    f"{STEM}.bin",
    f"{STEM}.bin.index.json",
    f"{STEM}.fp16.bin",
)
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""Of weights under other names."""
LARGEST_JSON = 1 << 23
"""Bytes; configs have some thousands, indices of large models some hundred thousands."""
MOST_PARTS = 1000


def read_weights(folder: Path, meta: bool = False) -> dict[str, Tensor]:
    """Return all tensors of a model folder; with `meta` on the meta device, only their types and shapes are read."""
    tensors: dict[str, Tensor] = {}
    for file, wanted in list_files(folder).items():
        if file.suffix == ".safetensors":
            with native.open_file(file) as content:
                found, _ = torch_state.unwrap(file, native.read_tensors(content, meta))
        else:
            found = torch_state.read_state(file, meta=meta)
        if missing := [name for name in wanted or () if name not in found]:
            raise MalformedCheckpointError(f"{file} lacks the tensor {missing[0]!r} that its index promises.")
        tensors |= found if wanted is None else {name: found[name] for name in wanted}
    return tensors


def hash_weights(folder: Path) -> dict[str, str]:
    return {file.name: sha256_of(file) for file in list_files(folder)}


def list_files(folder: Path) -> dict[Path, list[str] | None]:
    """Return the files of weights, each with the tensors that are wanted of it, None for all."""
    for name in NAMES:
        if (folder / name).is_file():
            return read_index(folder / name) if name.endswith(".json") else {folder / name: None}
    raise MalformedCheckpointError(f"{folder} has none of {', '.join(NAMES)}: {suggest(folder)}.")


def suggest(folder: Path) -> str:
    """Return what to do with a folder without a file of the usual name."""
    lone = min((file for file in folder.iterdir() if file.suffix in SUFFIXES), default=None)
    return "download the whole folder" if lone is None else f"name the file of its weights instead, {lone}"


def read_index(index: Path) -> dict[Path, list[str] | None]:
    """Return the files that an index names; a name that leads out of the folder is refused."""
    tensors = read_json(index).get("weight_map")
    if not isinstance(tensors, dict) or not tensors:
        raise MalformedCheckpointError(f"{index} is not an index of weights: it names no tensors.")
    parts: dict[Path, Any] = defaultdict(list)
    names = {str(name): name for name in tensors.values()}
    if len(names) > MOST_PARTS:
        raise MalformedCheckpointError(f"{index} names {len(names):,} files; weights come in at most {MOST_PARTS:,}.")
    for name in names.values():
        if not isinstance(name, str) or PurePosixPath(name).name != name or "\\" in name or not name.strip("."):
            raise UnsafeCheckpointError(f"{index} leads to {str(name)[:100]!r}, out of its folder: nothing was loaded.")
        if not (index.parent / name).is_file():
            raise MalformedCheckpointError(f"{index} names the file {name[:100]!r}, which is missing.")
    for tensor, name in tensors.items():
        parts[index.parent / name].append(tensor)
    return dict(parts)


def read_json(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(read_bytes(path, LARGEST_JSON))
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON record")
    except (OSError, ValueError) as error:
        raise MalformedCheckpointError(f"{path} cannot be read as JSON ({str(error)[:100]}).") from error
    return values
