"""A fine-tuned model stored as a difference: the tensors that its base does not have, and a hash of that base."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.errors import CheckpointError, MalformedCheckpointError, MismatchError

ROUNDED = torch.bfloat16


def diff(denoiser: Denoiser, base: Denoiser) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors that differ from the base's in any bit, and what a description says about the base.

    Those that are the base's rounded to bfloat16 are named there.
    """
    tensors, known = denoiser.state_dict(), base.state_dict()
    different = {name: tensor for name, tensor in tensors.items() if not is_equal(tensor, known.get(name))}
    rounded = [n for n, t in different.items() if n in known and is_equal(t, known[n].to(ROUNDED).to(t.dtype))]
    about = {"sha256": weights_sha256(base)} | ({"bfloat16": rounded} if rounded else {})
    return {name: tensor for name, tensor in different.items() if name not in rounded}, {"base": about}


def apply(path: Path, tensors: Mapping[str, Tensor], spec: Mapping[str, Any], base: Denoiser | None) -> dict[str, Any]:
    """Return a file's tensors with all others copied from the base; an error where it is not the file's own base."""
    if base is None:
        remedy = "name its base, the model that it started from (`d2o convert FILE OUT.safetensors --base MODEL`)"
        raise CheckpointError(f"{path} contains only the weights that fine-tuning changed: {remedy}.")
    match spec.get("base"):
        case {"sha256": str(wanted), **rest} if isinstance(rounded := rest.get("bfloat16", []), list):
            found = weights_sha256(base)
        case _:
            raise MalformedCheckpointError(f"{path} does not say which base it is a difference to.")
    if found != wanted:
        hashes = f"{wanted[:12]}..., not {found[:12]}..."
        where = f", {rest['from']} at that time" if "from" in rest else ""
        remedy = f"give the model that it started from{where}"
        raise MismatchError(f"{path} is a difference to a base of hash {hashes}: {remedy}.")
    whole = {name: tensor.detach().clone() for name, tensor in base.state_dict().items()}
    return {**whole, **{name: whole[name].to(ROUNDED) for name in whole.keys() & {*map(str, rounded)}}, **tensors}


def weights_sha256(denoiser: Denoiser) -> str:
    """Return a hash of all tensors with their names, types and shapes, whatever file they were read from."""
    found = hashlib.sha256()
    for name, tensor in sorted(denoiser.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(view_bytes(tensor).numpy().data)
    return found.hexdigest()


def is_equal(tensor: Tensor, other: Tensor | None) -> bool:
    if other is None or tensor.dtype != other.dtype or tensor.shape != other.shape:
        return False
    return torch.equal(view_bytes(tensor), view_bytes(other))


def view_bytes(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes in the order of its elements: for them, not-a-number equals itself, and 0 is not -0."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
