"""The networks that predict: F(x, noise, label, augmentation) -> [N,C,H,W], built from a JSON spec."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from d2o.records import nearest

from .backbone import Backbone
from .dhariwal_unet import DhariwalUNet
from .diffusers_unet import DiffusersUNet
from .dit import DiT
from .edm2_unet import Edm2UNet
from .song_unet import SongUNet

BACKBONES: dict[str, type[Backbone]] = {
    "song_unet": SongUNet,
    "dhariwal_unet": DhariwalUNet,
    "edm2_unet": Edm2UNet,
    "diffusers_unet": DiffusersUNet,
    "dit": DiT,
}

__all__ = ["BACKBONES", "Backbone", "DhariwalUNet", "DiT", "DiffusersUNet", "Edm2UNet", "SongUNet", "build", "widened"]


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


def widened(backbone: torch.nn.Module, extra: int) -> torch.nn.Module:
    """Return a backbone that takes `extra` more augmentation labels, behind its own; they have no weight yet.

    A backbone of one's own is returned as it is where its `config` tells at least so many as `augmentation_dim`.
    ValueError for one without augmentation labels.
    """
    config = getattr(backbone, "config", {})
    if not isinstance(backbone, Backbone) and config.get("augmentation_dim", 0) >= extra:
        return backbone
    if not isinstance(backbone, Backbone) or "augmentation_dim" not in config:
        kind = getattr(backbone, "kind", type(backbone).__name__)
        raise ValueError(
            f"The backbone {kind} has no augmentation labels, through which trajectory and reverse-consistency tell "
            f"where a jump ends: use song_unet or dhariwal_unet, or another objective."
        )
    made = build({"kind": backbone.kind, **config, "augmentation_dim": config["augmentation_dim"] + extra})
    state, name = dict(backbone.state_dict()), "map_augment.weight"
    weight = made.state_dict()[name].zero_()
    if name in state:
        weight[:, : config["augmentation_dim"]] = state[name]
    made.load_state_dict({**state, name: weight})
    return made.to(weight.device)
