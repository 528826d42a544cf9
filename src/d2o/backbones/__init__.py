"""The networks that predict: F(x, noise, label, augmentation) -> [N,C,H,W], built from a JSON spec."""

import inspect
from collections.abc import Mapping
from typing import Any

from .backbone import Backbone
from .dhariwal_unet import DhariwalUNet
from .diffusers_unet import DiffusersUNet
from .dit import DiT
from .edm2_unet import Edm2UNet
from .options import nearest
from .song_unet import SongUNet

BACKBONES: dict[str, type[Backbone]] = {
    "song_unet": SongUNet,
    "dhariwal_unet": DhariwalUNet,
    "edm2_unet": Edm2UNet,
    "diffusers_unet": DiffusersUNet,
    "dit": DiT,
}

__all__ = ["BACKBONES", "Backbone", "DhariwalUNet", "DiT", "DiffusersUNet", "Edm2UNet", "SongUNet", "build"]


def build(spec: Mapping[str, Any]) -> Backbone:
    """Build the backbone that `{"kind": name, **config}` describes; a wrong spec is a ValueError that names the fix."""
    options = dict(spec)
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or kind not in BACKBONES:
        raise ValueError(f"Unknown backbone kind {kind!r}; {nearest(kind, list(BACKBONES))}")
    known = inspect.signature(BACKBONES[kind]).parameters
    for name in options:
        if name not in known:
            raise ValueError(f"The backbone {kind!r} has no option {name!r}; {nearest(name, list(known))}")
    missing = [name for name, option in known.items() if option.default is option.empty and name not in options]
    if missing:
        raise ValueError(f"The backbone {kind!r} needs the options {', '.join(missing)}.")
    return BACKBONES[kind](**options)
