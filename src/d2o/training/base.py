"""The model that a run starts from, which has the frozen weights that its checkpoints leave out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from d2o.checkpoints.delta import weights_sha256
from d2o.checkpoints.loading import is_difference
from d2o.checkpoints.places import locate
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import CheckpointError
from d2o.objectives.teaching import is_rounded

from .run_directory import State
from .state import list_frozen


def find_base(origin: Mapping[str, Any], teacher: Denoiser, student: Denoiser) -> dict[str, Any] | None:
    """Return where all that is frozen can be found again, from what file or shipped name, and the hash of that model.

    None where `load` would need more than its name, where it may change (an unfinished run) or go (an address), and
    where the student has frozen weights of its own.
    """
    name, frozen, own = origin.get("from"), list_frozen(student), teacher.state_dict()
    is_its = all(key in own and is_rounded(own[key], p) for key, p in frozen.items())
    if not frozen or not is_its or not isinstance(name, str) or "://" in name or origin.keys() & {"family", "config"}:
        return None
    try:
        place = locate(name, "model")
        if place.unfinished or is_difference(place):
            return None
    except CheckpointError:  # a name that says something else
        return None
    path = str(place.path.absolute()) if Path(name).expanduser().exists() else name
    rounded = [key for key, parameter in frozen.items() if parameter.dtype == torch.bfloat16]
    return {"from": path, "sha256": weights_sha256(teacher)} | ({"bfloat16": rounded} if rounded else {})


def check_base(directory: Path, state: State, base: Mapping[str, Any] | None) -> None:
    """Raise a ValueError where a checkpoint lacks the weights of another model than the one that a run begins with."""
    wanted = state[1]["base"]
    if wanted is not None and wanted["sha256"] != (base or {}).get("sha256"):
        raise ValueError(
            f"{directory} contains only trained weights, and the model that it starts from has other weights than "
            f"the one at {wanted['from']} had then (sha256 {wanted['sha256'][:12]}...): put that one back there."
        )
