"""A fine-tuned model as what has moved: the tensors that are not its base's, and the hash of that base."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.errors import CheckpointError, MalformedCheckpointError, MismatchError

CONTENT = "delta"
"""The `content` of such a file's description; its `base` holds the base's hash."""


def moved(tensors: Mapping[str, Tensor], base: Denoiser) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors that differ from the base's in any bit, and what a description says of the base."""
    known = base.state_dict()
    different = {name: tensor for name, tensor in tensors.items() if not same(tensor, known.get(name))}
    return different, {"sha256": weights_sha256(base)}


def same(tensor: Tensor, other: Tensor | None) -> bool:
    """Return whether two tensors are equal in type, shape and every bit."""
    if other is None or tensor.dtype != other.dtype or tensor.shape != other.shape:
        return False
    return torch.equal(as_bytes(tensor), as_bytes(other))


def as_bytes(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes in the order of its elements: for them, not-a-number equals itself, and 0 is not -0."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def weights_sha256(denoiser: Denoiser) -> str:
    """Return a hash of all tensors with their names, types and shapes, whatever file they were read from."""
    found = hashlib.sha256()
    for name, tensor in sorted(denoiser.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(as_bytes(tensor).numpy().data)
    return found.hexdigest()


def completed(path: Path, tensors: Mapping[str, Tensor], spec: Mapping[str, Any], base: Denoiser) -> dict[str, Tensor]:
    """Return a file's tensors with all others taken from the base; ValueError where it is not the file's own base."""
    recorded = spec.get("base")
    wanted = recorded.get("sha256") if isinstance(recorded, dict) else None
    if not isinstance(wanted, str):
        raise MalformedCheckpointError(f"{path} does not say what it is a difference to.")
    found = weights_sha256(base)
    if found != wanted:
        raise MismatchError(
            f"{path} belongs to another base: its weights have the hash {wanted[:12]}..., those of the base that is "
            f"given {found[:12]}...; give the model that the run started from."
        )
    return {**{name: tensor.detach().clone() for name, tensor in base.state_dict().items()}, **tensors}


def needed(path: Path) -> CheckpointError:
    """Return the error for a difference without its base."""
    return CheckpointError(
        f"{path} holds only what a fine-tuning moved: name the model that it started from as base (--base MODEL)."
    )
