"""Open any checkpoint: recognise what a file is by its content, never by its name, and make it a denoiser."""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from d2o import fetch as urls
from d2o.data import codec
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import CheckpointError, MalformedCheckpointError, UnsupportedCheckpointError

from . import native
from .pickles import persistence, torch_state
from .pickles.storages import LEGACY_START
from .pickles.values import items
from .readers import consistency, diffusers_folder, dit, edm, edm2
from .shipped import SHIPPED, shipped

KEY = "ema"
START = 1024
"""Bytes of a file that are looked at to recognise it."""
EDM2_CLASS = "Precond"
CLASSES = (*edm.FAMILIES, EDM2_CLASS)
# The first digits of the hashes of the source files that public releases embed.
SOURCES = {
    "5db27dcd96674b95": "EDM, November 21, 2022",
    "2294828d5f59f5fd": "EDM, October 31, 2022",
    "81e38320ab57f2c9": "D2O",
    "f3acb74fd073a19b": "D2O, an earlier revision",
    "7298880db4bf955d": "EDM2",
}
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Request:
    """What to read: `key` chooses among several networks; with `ghosts` no tensor is read, only types and shapes.

    `num_heads` are the attention heads of a DiT's state dict, which does not tell them.
    """

    path: Path
    key: str = KEY
    ghosts: bool = False
    base: Denoiser | None = None
    num_heads: int | None = None


def load(
    path: str | os.PathLike,
    *,
    key: str = KEY,
    sha256: str | None = None,
    device: torch.device | str = "cpu",
    base: Denoiser | str | os.PathLike | None = None,
    num_heads: int | None = None,
) -> Denoiser:
    """Read a denoiser from a file, a folder or an address (https://, hf://), in eval mode; nothing in it is executed.

    `key` chooses among the networks of one file ("ema" or "net"); `sha256` is the hash that the file must have. `base`,
    a model or its path, completes a file that holds only what a fine-tuning moved; `num_heads` are the attention heads
    of a DiT's state dict of no published width. All that can be wrong is a CheckpointError.
    """
    place = located(path, sha256)
    if base is not None and recognise(place) != "d2o":
        raise CheckpointError(f"{place} is complete and needs no base: leave it out.")
    base = base if base is None or isinstance(base, Denoiser) else load(base)
    denoiser = read(Request(place, key, base=base, num_heads=num_heads))
    if recognise(place) in ("pickle", "torch") and denoiser.provenance.get("source") == UNKNOWN:
        warnings.warn(
            f"{place}: the file's own network source differs from the releases that d2o knows; its weights are used "
            f"with d2o's implementation, and its source was not run.",
            stacklevel=2,
        )
    try:
        codec.attach(denoiser)
    except ValueError as error:
        raise UnsupportedCheckpointError(f"{place} cannot be used: {error}") from error
    if sha256:
        denoiser.provenance = {**denoiser.provenance, "sha256": sha256.lower()}
    return native.placed(denoiser, device).eval()


def located(path: str | os.PathLike, sha256: str | None = None) -> Path:
    """Return the file or folder that a path, an address or a shipped model's name stands for, its hash compared."""
    if urls.is_address(path):
        return urls.fetch(str(path), sha256)
    place = Path(path)
    if not place.exists() and str(path) in SHIPPED:
        return shipped(str(path))
    if not place.exists():
        raise CheckpointError(f"There is no checkpoint at {place}.")
    if sha256 and (found := file_sha256(place)) != sha256.lower():
        raise MalformedCheckpointError(f"{place} has SHA-256 {found}, not {sha256}: fetch the file again.")
    return place


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; a folder has none."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, and sha256 is the hash of a file: leave it out.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(request: Request) -> Denoiser:
    """Return the denoiser that a file or folder holds (with ghosts: on the meta device)."""
    denoiser = READERS[recognise(request.path)](request)
    config: Any = denoiser.backbone.config
    if request.num_heads not in (None, config.get("num_heads")):
        raise CheckpointError(f"{request.path} tells itself what its network is: leave num_heads out.")
    return denoiser


def recognise(path: Path) -> str:
    """Return which of READERS reads a file or folder, by looking at its content."""
    if path.is_dir():
        native_names = ("ema.safetensors", "checkpoint.safetensors")
        if any((path / name).exists() for name in native_names):
            return "d2o"
        if any((path / name).exists() for name in ("model_index.json", "config.json")):
            return "diffusers"
        raise CheckpointError(
            f"{path} is a folder without model files: name a file, a run directory, or a diffusers folder with its "
            f"model_index.json or config.json."
        )
    if not path.is_file():
        raise CheckpointError(f"{path} is neither a file nor a folder: save what it gives to a file first.")
    try:
        with path.open("rb") as file:
            start = file.read(START)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    for pattern, meaning in NOT_CHECKPOINTS:
        if re.match(pattern, start, re.IGNORECASE):
            raise MalformedCheckpointError(f"{path} {meaning}.")
    for pattern, kind in STARTS:
        if re.match(pattern, start, re.DOTALL):
            return safetensors_kind(path) if kind == "safetensors" else kind
    raise MalformedCheckpointError(
        f"{path} is no checkpoint that d2o knows: neither safetensors, nor an EDM, D2O or EDM2 pickle, nor a torch "
        f"file, nor a diffusers folder."
    )


NOT_CHECKPOINTS = (
    (rb"$", "is empty: fetch the file again"),
    (rb"version https://git-lfs", "is a git-LFS pointer, not the file itself: run `git lfs pull`"),
    (
        rb"\s*<(!doctype|html|head|\?xml|!--)",
        "is a web page that was saved instead of the file: download the file itself",
    ),
)
STARTS = (
    (re.escape(LEGACY_START), "torch"),
    (rb"\x80[\x02-\x05]", "pickle"),
    (re.escape(torch_state.ZIP_START), "torch"),
    (rb".{8}\{", "safetensors"),
    (rb".{0,8}$", "safetensors"),  # too short even for its header: its reader says so
)


def safetensors_kind(path: Path) -> str:
    """Return whether a safetensors file describes its network as ours do or as EDM's classes."""
    with native.opened(path) as file:
        metadata = file.metadata() or {}
    return "edm" if native.SPEC not in metadata and "config" in metadata else "d2o"


def read_native(request: Request) -> Denoiser:
    """Read one of our own files or a run directory."""
    return native.load(request.path, ghosts=request.ghosts, base=request.base)


def read_edm_safetensors(request: Request) -> Denoiser:
    """Read a safetensors file with EDM's names, whose metadata hold the class and its arguments as JSON `config`."""
    path = request.path
    with native.opened(path) as file:
        config = json_record(path, file.metadata()["config"])
        state = native.tensors_of(file, request.ghosts)
    class_name = config.pop("precond", None)
    if not isinstance(class_name, str):
        raise UnsupportedCheckpointError(f"{path} has a `config` that does not name its class as `precond`.")
    provenance = {"format": "edm safetensors", "file": path.name, "class": class_name[:100]}
    return edm.denoiser(class_name[:100], config, {}, state, path, provenance)


def json_record(path: Path, text: str) -> dict[str, Any]:
    """Return a JSON text's record."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsupportedCheckpointError(f"{path} has a `config` that is not JSON.") from error
    if not isinstance(record, dict):
        raise UnsupportedCheckpointError(f"{path} has a `config` that is not a JSON record.")
    return record


def read_pickle(request: Request) -> Denoiser:
    """Read one of NVIDIA's pickles as data."""
    with persistence.opened(request.path) as content:
        return read_objects(content, request)


def read_objects(content: persistence.Pickle, request: Request) -> Denoiser:
    """Read one of NVIDIA's networks among the objects of an open file."""
    path, network = request.path, content.network(request.key, CLASSES)
    provenance = {
        "format": "nvidia pickle",
        "file": path.name,
        "class": network.class_name,
        "entry": request.key,
        "source_sha256": network.source_sha256,
        "source": SOURCES.get(network.source_sha256[:16], UNKNOWN),
    }
    settings = content.settings(network)
    state = content.tensors(network, request.ghosts)
    if network.class_name != EDM2_CLASS:
        return edm.denoiser(network.class_name, settings, content.attributes(network), state, path, provenance)
    extras: dict[str, Any] = {"provenance": provenance}
    if isinstance(content.entries.get("encoder"), persistence.Node):
        encoder = content.object(content.entries["encoder"])
        extras["encoder"] = {**content.attributes(encoder), "class_name": encoder.class_name}
    return edm2.denoiser(settings, state, path, extras)


def read_torch(request: Request) -> Denoiser:
    """Read what torch.save wrote: a state dict of an architecture that its names reveal, or NVIDIA's objects."""
    path = request.path
    with torch_state.opened(path) as content:
        objects = persistence.Pickle(content.source, items(content.value) or {}, content.storages)
        if objects.classes():
            return read_objects(objects, request)
        state = torch_state.tensors(content, request.key, request.ghosts)
    if dit.recognise(state):
        return dit.from_state(state, path, request.num_heads)
    if consistency.recognise(state):
        return consistency.from_state(state, path)
    shown = ", ".join(name[:60] for name in list(state)[:5])
    raise UnsupportedCheckpointError(
        f"{path} holds the weights of a network that d2o does not know (its first are {shown}); it knows DiT and "
        f"consistency_models."
    )


def read_diffusers(request: Request) -> Denoiser:
    """Read a diffusers folder."""
    return diffusers_folder.load(request.path, request.ghosts)


READERS: dict[str, Callable[[Request], Denoiser]] = {
    "d2o": read_native,
    "edm": read_edm_safetensors,
    "pickle": read_pickle,
    "torch": read_torch,
    "diffusers": read_diffusers,
}
