"""The files of a model folder: JSON, and the tensors of one variant, whole or in indexed parts."""

import re
from collections import defaultdict
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from torch import Tensor

from d2o.checkpoints import native
from d2o.errors import MalformedCheckpointError, UnsafeCheckpointError
from d2o.files import parse_json, read_bytes, sha256_of
from d2o.pickles import torch_state

STEM = "diffusion_pytorch_model"
KINDS = {"safetensors", "bin"}
"""Of files of tensors, a name's last word, or the one before that of an index."""
HALF = re.compile("(fp|bf|float|int|nf|q)(16|8|4)|half|[84]bit")
"""In the variants of lower precision."""
NOT_AVERAGED = re.compile("non?ema")
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""Of weights under other names."""
LARGEST_JSON = 1 << 23
"""Bytes; configs have some thousands, indices of large models some hundred thousands."""
MOST_PARTS = 1000


class Weights(NamedTuple):
    """The file of the weights of one variant, or their index; `variant` is empty where the name has none."""

    file: Path
    variant: str
    others: tuple[str, ...]
    """The files of other variants in the same folder."""


def find_weights(folder: Path, variant: str | None = None) -> Weights:
    """Return the weights of a folder of the variant that is named, or else the averaged ones of the best precision."""
    files = islice(folder.glob(f"{STEM}.*"), MOST_PARTS)
    variants = {file: found for file in files if (found := read_variant(file.name)) is not None and file.is_file()}
    if not variants:
        usual = f"{STEM}.safetensors, {STEM}.bin or an index of such files"
        raise MalformedCheckpointError(f"{folder} has no {usual}: {suggest(folder)}.")
    wanted = [file for file, found in variants.items() if variant in (None, found)]
    if not wanted:
        known = ", ".join(sorted(map(repr, set(variants.values()))))
        raise MalformedCheckpointError(f"{folder} has no weights of the variant {variant!r}; it has {known}.")
    best = min(wanted, key=lambda file: rank(file.name, variants[file]))
    others = sorted(file.name for file, found in variants.items() if found != variants[best])
    return Weights(best, variants[best], tuple(others))


def suggest(folder: Path) -> str:
    """Return what to do with a folder without a file of the usual name."""
    lone = min((file for file in folder.iterdir() if file.suffix in SUFFIXES), default=None)
    return "download the whole folder" if lone is None else f"name the file of its weights instead, {lone}"


def read_variant(name: str) -> str | None:
    """Return the variant in the name of a file of weights or an index, wherever it stands; None for other files."""
    _, *words = name.split(".")
    is_index = words[-1] == "json" and "index" in words
    if len(KINDS.intersection(words)) != 1 or not (is_index or words[-1] in KINDS) or re.search(r"-\d+-of-\d+", name):
        return None
    return ".".join(word for word in words if word not in {*KINDS, "index", "json"})


def rank(name: str, variant: str) -> tuple[bool | str, ...]:
    words = re.findall("[a-z0-9]+", variant.lower())
    raw, half = (found.search("".join(words)) is not None for found in (NOT_AVERAGED, HALF))
    return raw, half, "ema" not in words, variant != "", ".safetensors" not in name, name


def read_weights(weights: Weights, meta: bool = False) -> dict[str, Tensor]:
    """Return all tensors of a variant; with `meta` on the meta device, only their types and shapes are read."""
    tensors: dict[str, Tensor] = {}
    for file, wanted in list_files(weights).items():
        if file.suffix == ".safetensors":
            with native.open_file(file) as content:
                found, _ = torch_state.unwrap(file, native.read_tensors(content, meta))
        else:
            found = torch_state.read_state(file, meta=meta)
        if missing := [name for name in wanted or () if name not in found]:
            raise MalformedCheckpointError(f"{file} lacks the tensor {missing[0]!r} that its index promises.")
        tensors |= found if wanted is None else {name: found[name] for name in wanted}
    return tensors


def hash_weights(weights: Weights) -> dict[str, str]:
    return {file.name: sha256_of(file) for file in list_files(weights)}


def list_files(weights: Weights) -> dict[Path, list[str] | None]:
    """Return the files of weights, each with the tensors that are wanted of it, None for all."""
    return read_index(weights.file) if weights.file.suffix == ".json" else {weights.file: None}


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
            raise UnsafeCheckpointError(f"{index} points to {str(name)[:100]!r}, outside its folder: nothing loaded.")
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
