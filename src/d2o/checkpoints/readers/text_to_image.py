"""Text-to-image networks of diffusers folders: what their configs say of them, and which times they are told."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from d2o.backbones.diffusers_class import list_arguments
from d2o.backbones.text_to_image import NETWORKS
from d2o.checkpoints import native

from .scheduler import Schedule

USUAL_SIZE = 128
"""The side of latents that pipelines make by default, of networks that do not say it."""
OPTIONS = ("sample_size", "guidance")
"""What a user may say of a network, against its config: the side of its latents, and the guidance that it is told."""
PARTS = tuple(f"{part}{number}" for part in ("tokenizer", "text_encoder") for number in ("", "_2", "_3"))
"""Folders of a pipeline that reads captions."""


def read(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the description of a denoiser without its preconditioning, and its weights."""
    name, settings = config["_class_name"], {key: value for key, value in config.items() if not key.startswith("_")}
    side, guidance = settings.get("sample_size") or USUAL_SIZE, settings.pop("guidance", None)
    side = side[0] if isinstance(side, list) and side[:1] * 2 == side else side
    settings["sample_size"] = side
    if "sample_size" not in list_arguments(name):  # a network of any size, which only a user says
        del settings["sample_size"]
    channels = settings.get("in_channels")
    if type(channels) is not int or type(side) is not int:
        raise ValueError(f"its in_channels {str(channels)[:20]} and sample_size {str(side)[:20]} are not whole numbers")
    sizes = {"resolution": side, "num_classes": 0}
    sizes |= dict.fromkeys(("in_channels", "out_channels"), channels // NETWORKS[name].fold ** 2)
    backbone = {"kind": "text_to_image", **sizes, "network": name, "settings": settings, "guidance": guidance}
    return native.compose(backbone, {}), {f"backbone.network.{key}": tensor for key, tensor in tensors.items()}


def tell_times(name: str, config: Mapping[str, Any], schedule: Schedule) -> Schedule:
    """Return a flow's schedule with the time as the network is told it, which its scheduler does not know."""
    row, family = NETWORKS[name], schedule.family
    if family["kind"] != "flow":
        return schedule
    scale = family["time_scale"] * config.get("timestep_scale", 1.0) if row.time is None else row.time
    told = {**family, "time_scale": scale, "towards": row.towards}
    return schedule._replace(family=told if row.scheduled else {**told, "last_time": None})
