"""Load any model: one reader for each form of checkpoint, all given the same request."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from d2o.diffusion.denoiser import Denoiser, use_full_float32
from d2o.diffusion.families import PRECONDITIONINGS
from d2o.encoders.codec import attach
from d2o.errors import CheckpointError
from d2o.records import find

from . import native
from .places import Form, Place, find_saved, locate

KEY, BASE = "ema", "base"
FAMILIES = {kind: kind for kind in PRECONDITIONINGS} | {"consistency": "boundary", "sit": "flow"}
"""What a user may say that a network predicts, where its file does not -> the kind of the family."""


@dataclass(frozen=True)
class Request:
    """What to read: `key` chooses among several networks; with `meta` no tensor is read, only types and shapes.

    `base` completes a file that contains a difference; `num_heads` are the attention heads of a DiT's state dict,
    `family`, one of FAMILIES, what a state dict's network predicts, and `config` the arguments of its constructor.
    """

    path: Path
    key: str = KEY
    meta: bool = False
    base: Denoiser | None = None
    num_heads: int | None = None
    family: str | None = None
    config: Mapping[str, Any] | None = None


def load(
    path: str | os.PathLike,
    *,
    key: str = KEY,
    sha256: str | None = None,
    device: torch.device | str = "cpu",
    base: Denoiser | str | os.PathLike | None = None,
    num_heads: int | None = None,
    family: str | None = None,
    config: Mapping[str, Any] | str | os.PathLike | None = None,
    codec: str | os.PathLike | None = None,
) -> Denoiser:
    """Read a denoiser from a file, folder, address (https://, hf://) or shipped name, in eval mode; as data only.

    `key` chooses among the networks of one file ("ema" or "net") or the variants of a folder's weights ("fp16");
    `sha256` is the hash that the file must have. `base`, a model or its path, completes a file that contains only the
    weights that fine-tuning changed; `num_heads` are those of a DiT's state dict of no published width; `family`, one
    of FAMILIES, is what a state dict's network predicts, where it does not tell, and `config` its constructor's
    arguments, or a JSON file of them; `codec` is the folder of a latent model's autoencoder. Bad input is a
    CheckpointError or another ValueError.
    """
    place = locate(path, "model", sha256=sha256)
    if base is not None and not is_difference(place):
        raise CheckpointError(f"{place.path} is a whole model and needs no base: leave it out.")
    base = base if base is None or isinstance(base, Denoiser) else load(base)
    given = {"num_heads": num_heads, "family": family, "config": read_config(config)}
    denoiser = read(place, Request(place.path, key, base=base, **given))
    if sha256:
        denoiser = denoiser.replace(provenance={**denoiser.provenance, "sha256": sha256.lower()})
    if codec is not None:
        denoiser = attach(denoiser, os.fspath(codec))
    use_full_float32()
    try:
        return denoiser.to(device)
    except (RuntimeError, AssertionError) as error:  # torch's words for no such device, no driver, no memory
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"The device {str(device)!r} cannot be used ({reason}); cpu always works.") from error


def read(place: Place, request: Request) -> Denoiser:
    assert place.form is not None, place
    if request.family is not None:
        find(request.family, FAMILIES, "family")
    if request.config is not None and place.form != "diffusers" and not is_state_dict(place):
        raise CheckpointError(f"{request.path} already describes its network: leave config out.")
    denoiser = READERS[place.form](request)
    if request.num_heads not in (None, denoiser.backbone.config.get("num_heads")):  # type: ignore[union-attr]
        raise CheckpointError(f"{request.path} already describes its network: leave num_heads out.")
    if request.family is not None and FAMILIES[request.family] != denoiser.preconditioning.kind:
        raise CheckpointError(f"{request.path} is of the family {denoiser.preconditioning.kind}: leave family out.")
    return denoiser


def read_config(config: Mapping[str, Any] | str | os.PathLike | None) -> Mapping[str, Any] | None:
    if config is None or isinstance(config, Mapping):
        return config
    from .readers.folder_weights import read_json

    return read_json(Path(config))


def is_difference(place: Place) -> bool:
    """Return whether a file, or the checkpoint of an unfinished run, contains only what a base lacks."""
    file = find_saved(place.path) if place.form == "run" else place.path
    assert file is not None, place.path
    if place.form not in ("run", "safetensors") or native.find_description(file) != native.SPEC:
        return False
    spec = native.read_header(file)
    return BASE in spec or spec.get("content") == native.DELTA


def is_state_dict(place: Place) -> bool:
    """Return whether a file has weights under their names, and no description of their network."""
    return place.form == "torch" or (place.form == "safetensors" and native.find_description(place.path) is None)


def read_run(request: Request) -> Denoiser:
    file = find_saved(request.path)
    assert file is not None, request.path
    return read_native(file, request)


def read_safetensors(request: Request) -> Denoiser:
    described = native.find_description(request.path)
    if described == native.SPEC:
        return read_native(request.path, request)
    if described == native.CONFIG:
        from .readers import nvidia

        return nvidia.read_safetensors(request.path, request.meta)
    from d2o.pickles import torch_state

    with native.open_file(request.path) as file:
        state, wrappers = torch_state.unwrap(request.path, native.read_tensors(file, request.meta), request.key)
    return read_state(state, request, {}, wrappers)


def read_native(path: Path, request: Request) -> Denoiser:
    tensors, spec = native.read(path, request.meta)
    if spec.get("content") == "run":  # what the average has in common with the student is there once, as the student's
        rows = [(name.partition(".")[::2], tensor) for name, tensor in tensors.items()]
        tensors = {name: tensor for part in ("student", "ema") for (owner, name), tensor in rows if owner == part}
    if BASE in spec or spec.get("content") == native.DELTA:
        if request.meta:
            return native.build(path, spec).eval()
        from . import delta

        tensors = delta.apply(path, tensors, spec, request.base or find_base(path, spec))
    return native.make(path, spec, tensors)


def find_base(path: Path, spec: Mapping[str, Any]) -> Denoiser | None:
    """Return the model that a run began with, if its checkpoint says where that was; never one that is fetched."""
    name = spec[BASE].get("from") if isinstance(spec.get(BASE), dict) else None
    if not isinstance(name, str) or "://" in name:
        return None
    try:
        if is_difference(locate(name, "model")):
            return None
        return load(name)
    except CheckpointError as error:
        remedy = f"put it back there, or name it: d2o convert {path} OUT.safetensors --base MODEL"
        raise CheckpointError(
            f"{path} contains only trained weights, and its base is not at {name}: {remedy}."
        ) from error


def read_pickle(request: Request) -> Denoiser:
    from d2o.pickles import persistence

    from .readers import nvidia

    with persistence.open_file(request.path) as objects:
        return nvidia.read_objects(objects, request.key, request.meta)


def read_diffusers(request: Request) -> Denoiser:
    from .readers import diffusers_folder

    variant = None if request.key == KEY else request.key
    return diffusers_folder.load(request.path, request.meta, variant, request.config)


def read_torch(request: Request) -> Denoiser:
    from d2o.pickles import persistence, torch_state
    from d2o.pickles.values import get_items

    from .readers import nvidia

    with torch_state.open_file(request.path) as content:
        objects = persistence.Objects(content.source, get_items(content.value) or {}, content.storages)
        if objects.list_classes():
            return nvidia.read_objects(objects, request.key, request.meta)
        state, keys = torch_state.read_tensors(content, request.key, request.meta)
        arguments = torch_state.read_arguments(content)
    return read_state(state, request, arguments, keys)


def read_state(
    state: Mapping[str, torch.Tensor], request: Request, arguments: Mapping[Any, Any], keys: tuple[str, ...]
) -> Denoiser:
    """Return the denoiser of weights that are known by their names, which stood under `keys` in their file.

    `arguments` are those of its training.
    """
    from .readers import states

    told = {"family": request.family, "config": request.config, "num_heads": request.num_heads, "training": arguments}
    denoiser = states.read(state, request.path, **told)
    return denoiser.replace(provenance=denoiser.provenance | ({"entry": ".".join(keys)} if keys else {}))


READERS: dict[Form, Callable[[Request], Denoiser]] = {
    "run": read_run,
    "safetensors": read_safetensors,
    "pickle": read_pickle,
    "torch": read_torch,
    "diffusers": read_diffusers,
}
"""Each imports what it needs when it is called: most programs read one form."""
