"""Say what a checkpoint is without reading its weights: the same readers, given tensors without numbers."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2o.diffusion.denoiser import Denoiser

from . import delta, native
from .formats import KEY, Request, file_sha256, located, read, recognise
from .native import describe

KINDS = {
    "d2o": "d2o safetensors",
    "edm": "safetensors with EDM's names",
    "pickle": "NVIDIA pickle",
    "torch": "torch state dict",
    "diffusers": "diffusers folder",
}


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint holds; `denoiser` is on the meta device, `sha256` None for a folder."""

    path: Path
    kind: str
    sha256: str | None
    denoiser: Denoiser

    @property
    def class_name(self) -> str:
        """The class that the file names, or else our backbone's."""
        return str(self.denoiser.provenance.get("class") or type(self.denoiser.backbone).__name__)

    @property
    def parameters(self) -> int:
        """How many numbers are trained; buffers are not among them."""
        return sum(parameter.numel() for parameter in self.denoiser.parameters())

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        spec = describe(self.denoiser)
        return {
            "path": str(self.path),
            "kind": self.kind,
            "class": self.class_name,
            "sha256": self.sha256,
            "parameters": self.parameters,
            "image_shape": spec["image_shape"],
            "num_classes": spec["num_classes"],
            "configuration": spec["backbone"],
            "preconditioning": spec["preconditioning"],
            "provenance": spec["provenance"],
        }


def inspect(
    path: str | os.PathLike, *, key: str = KEY, sha256: str | None = None, num_heads: int | None = None
) -> Inspection:
    """Return what a file, folder or address holds, after the same checks as `load`, but without its tensors."""
    place = located(path, sha256)
    denoiser = read(Request(place, key, ghosts=True, num_heads=num_heads))
    kind = KINDS[recognise(place)]
    if recognise(place) == "d2o" and native.header(native.locate(place)).get("content") == delta.CONTENT:
        kind += ", what has moved since a base"
    return Inspection(place, kind, None if place.is_dir() else file_sha256(place), denoiser)
