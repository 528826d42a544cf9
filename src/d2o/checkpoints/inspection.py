"""Say what a checkpoint is without reading its weights, and what to tell the user of a many-step model."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2o.diffusion.denoiser import Denoiser
from d2o.files import sha256_of

from . import native
from .loading import KEY, Request, is_difference, read, read_config
from .places import locate

NAMES = {
    "run": "d2o safetensors",
    "pickle": "NVIDIA pickle",
    "torch": "torch state dict",
    "diffusers": "diffusers folder",
}
"""What people call the forms of checkpoints."""
DESCRIBED = {
    native.SPEC: "d2o safetensors",
    native.CONFIG: "safetensors with EDM's names",
    None: "safetensors state dict",
}
"""And safetensors files, by how they describe their network."""


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint is; `denoiser` is on the meta device, `sha256` None for a folder.

    Of `as_dict`, "assumed" is what neither the file nor the user says of the network.
    """

    path: Path
    kind: str
    sha256: str | None
    denoiser: Denoiser

    @property
    def class_name(self) -> str:
        return str(self.denoiser.provenance.get("class") or type(self.denoiser.backbone).__name__)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.denoiser.parameters())

    def as_dict(self) -> dict[str, Any]:
        spec = native.describe(self.denoiser)
        provenance = dict(spec["provenance"])
        return {
            "path": str(self.path),
            "kind": self.kind,
            "class": self.class_name,
            "sha256": self.sha256,
            "parameters": self.parameters,
            "image_shape": spec["image_shape"],
            "num_classes": spec["num_classes"],
            "class_names": list(self.denoiser.class_names),
            "configuration": spec["backbone"],
            "family": self.denoiser.preconditioning.kind,
            "start": self.denoiser.sigma_max,
            "clip": self.denoiser.clip,
            "preconditioning": spec["preconditioning"],
            "assumed": provenance.pop("assumed", {}),
            "provenance": provenance,
        }


def inspect(
    path: str | os.PathLike,
    *,
    key: str = KEY,
    sha256: str | None = None,
    num_heads: int | None = None,
    family: str | None = None,
    config: Mapping[str, Any] | str | os.PathLike | None = None,
) -> Inspection:
    """Return what a file, folder, address or shipped name is, after the same checks as `load`, without its tensors."""
    place = locate(path, "model", sha256=sha256)
    given = {"num_heads": num_heads, "family": family, "config": read_config(config)}
    denoiser = read(place, Request(place.path, key, meta=True, **given))
    kind = NAMES[str(place.form)] if place.form != "safetensors" else DESCRIBED[native.find_description(place.path)]
    if is_difference(place):
        kind += ", a difference to a base"
    return Inspection(place.path, kind, None if place.path.is_dir() else sha256_of(place.path), denoiser)


def warn_about_one_step(denoiser: Denoiser, remedy: str = "") -> str | None:
    """Return the warning and `remedy` for who asks a many-step model for images in one call; None for a generator."""
    remedies = "d2o finetune makes it a one-step generator" + (f"; {remedy}" if remedy else "")
    blurred = "As far as its file tells, this is a diffusion model for many steps: in one call its images are blurred."
    return None if denoiser.one_step else f"{blurred} {remedies}."
