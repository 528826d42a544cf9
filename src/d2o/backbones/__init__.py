"""The networks that predict: F(x, noise, condition, augmentation) -> [N,C,H,W], built from a JSON spec."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from d2o.records import REGISTER, find, nearest

from .backbone import Backbone

BACKBONES: dict[str, type[Backbone] | str] = {
    "song_unet": "song_unet.SongUNet",
    "dhariwal_unet": "dhariwal_unet.DhariwalUNet",
    "edm2_unet": "edm2_unet.Edm2UNet",
    "diffusers_unet": "diffusers_unet.DiffusersUNet",
    "dit": "dit.DiT",
    "text_transformer": "text_transformer.TextTransformer",
    "text_unet": "text_unet.TextUNet",
    "text_to_image": "text_to_image.TextToImage",
}
"""Every kind of backbone that a spec can name: a class of yours, or where ours stands, imported at first use."""


def build(spec: Mapping[str, Any]) -> Backbone:
    """Build the backbone that `{"kind": name, **config}` describes; a wrong spec is a ValueError that names the fix."""
    options = dict(spec)
    kind = options.pop("kind", None)
    backbone = find_class(kind)
    known = inspect.signature(backbone).parameters
    for name in options:
        if name not in known:
            raise ValueError(f"The backbone {kind!r} has no option {name!r}; {nearest(name, known)}")
    missing = [name for name, option in known.items() if option.default is option.empty and name not in options]
    if missing:
        raise ValueError(f"The backbone {kind!r} needs the options {', '.join(missing)}.")
    return backbone(**options)


def find_class(kind: Any) -> type[Backbone]:
    backbone = find(kind, BACKBONES, "backbone of the kind", REGISTER)
    if isinstance(backbone, str):
        module, _, name = backbone.partition(".")
        backbone = BACKBONES[str(kind)] = vars(import_module(f".{module}", __name__))[name]
    return backbone


def is_ours(kind: object) -> bool:
    """Return whether a kind of backbone is d2o's own, and no one's who registered it."""
    known = BACKBONES.get(str(kind))
    return isinstance(known, str) or getattr(known, "__module__", "").startswith(f"{__name__}.")


def add_augmentation_labels(backbone: nn.Module, extra: int) -> nn.Module:
    """Return a backbone that takes `extra` more augmentation labels after its own; their weights are zero.

    A backbone that is not one of BACKBONES is returned as it is if its `config` has at least so many as
    `augmentation_dim`. ValueError for one without augmentation labels.
    """
    config = getattr(backbone, "config", {})
    if not isinstance(backbone, Backbone) and config.get("augmentation_dim", 0) >= extra:
        return backbone
    if not isinstance(backbone, Backbone) or "augmentation_dim" not in config:
        kind = getattr(backbone, "kind", type(backbone).__name__)
        remedy = "use song_unet or dhariwal_unet, or another objective"
        raise ValueError(f"The backbone {kind} has no augmentation labels, which mark where jumps end: {remedy}.")
    before = config["augmentation_dim"]
    wider = build({"kind": backbone.kind, **config, "augmentation_dim": before + extra})
    state, name = dict(backbone.state_dict()), "map_augment.weight"
    weight = wider.state_dict()[name].zero_()
    if name in state:
        weight[:, :before] = state[name]
    wider.load_state_dict({**state, name: weight})
    return wider.to(weight.device)
