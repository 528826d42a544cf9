"""Lone state dicts of diffusers' UNet2DModel, without the folder that they are usually in.

A config.json and a scheduler_config.json beside the file are read as in a folder. Without them names and shapes tell
most of the constructor's arguments; the side of the images must be given, and what else is not, is the constructor's
default, and said.
"""

from collections.abc import Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from torch import Tensor

from d2o.backbones.diffusers_unet import SETTINGS
from d2o.checkpoints.native import rows
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import name_file
from d2o.records import find

from . import arguments
from . import diffusers_folder as folders
from .diffusers_folder import CONFIG, SCHEDULER, Folder
from .folder_weights import read_json
from .scheduler import CONSISTENCY

CLASS = "UNet2DModel"
NAMES = {"conv_in.weight", "time_embedding.linear_1.weight", "conv_out.weight", "down_blocks.0.resnets.0.conv1.weight"}
ONE_STEP = {"_class_name": CONSISTENCY, "clip_denoised": False}
DDPM, FLOW = {"beta_schedule": "linear"}, "flow_prediction"
SCHEDULERS: dict[str, dict[str, Any]] = {
    "epsilon": {**DDPM, "prediction_type": "epsilon"},
    "velocity": {**DDPM, "prediction_type": "v_prediction"},
    "sample": {**DDPM, "prediction_type": "sample"},
    "flow": {"prediction_type": FLOW},
    "consistency": ONE_STEP,
    "boundary": ONE_STEP,
}
"""What the network predicts -> the scheduler config that is assumed."""
SPELLED = ("down_block_types", "up_block_types", "downsample_type", "upsample_type")
"""What weights show, and configs may say in other words."""
HARMLESS = ("class_embed_type", "dropout", "num_train_timesteps", "time_embedding_type", "time_embedding_dim")
HARMLESS += ("mid_block_type",)
"""Arguments without influence on images, or shown by weights where they are not the default."""


def recognise(state: Mapping[str, Any]) -> bool:
    return state.keys() >= NAMES and not any(".transformer_blocks." in name for name in state)


def from_state(
    state: Mapping[str, Tensor],
    path: Path,
    family: str | None = None,
    config: Mapping[str, Any] | None = None,
    **_others: Any,
) -> Denoiser:
    with name_file(path):
        folder, facts = open_beside(path), measure(state)
        given = folder.config if config is None else config
        given = {name: value for name, value in given.items() if not name.startswith("_")}
        arguments.compare(given, {name: fact for name, fact in facts.items() if name not in SPELLED})
        for name, reason in (("sample_size", "the side of its images"), ("norm_num_groups", "the groups of its norms")):
            if given.get(name) is None and (name == "sample_size" or min(facts["block_out_channels"]) % 32):
                raise ValueError(f"its weights do not show {reason}; {arguments.ask_for(name)}")
        known = {*given, *facts, *HARMLESS}
        assumed = {name: default for name, (default, _) in SETTINGS.items() if name not in known}
        scheduler = folder.scheduler or find(family or "epsilon", SCHEDULERS, "family of these weights")
    if not folder.scheduler:
        assumed |= {} if family else {"family": "epsilon"}
        told = scheduler.get("prediction_type")
        assumed |= {"time_scale": 1000.0} if told == FLOW else {"schedule": "linear"} if told else {}
    folder = folder._replace(path=path, config=facts | given, scheduler=scheduler)
    origin = {"class": CLASS, "file": path.name}
    if assumed and not state["conv_in.weight"].is_meta:
        arguments.warn_of(path, assumed)
    return folders.assemble(folder, folders.read_unet, state, origin, assumed)


def open_beside(path: Path) -> Folder:
    """Return what the configs beside a file of weights say."""
    place, config = path.parent, path.parent / CONFIG
    if config.is_file() and read_json(config).get("_class_name") == CLASS:
        return folders.open_folder(place)
    return Folder(path, {}, read_json(place / SCHEDULER) if (place / SCHEDULER).is_file() else {}, None)


def measure(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the constructor's arguments that names and shapes show."""
    first = "down_blocks.0.resnets.0"
    levels = sum(1 for _ in takewhile(lambda n: f"down_blocks.{n}.resnets.0.conv1.weight" in state, count()))
    each = sum(1 for _ in takewhile(lambda n: f"down_blocks.0.resnets.{n}.conv1.weight" in state, count()))
    widths = [rows(state, f"down_blocks.{level}.resnets.0.conv2.weight") for level in range(levels)]
    told, shifted = rows(state, f"{first}.time_emb_proj.weight"), rows(state, f"{first}.conv1.weight")
    embedded = rows(state, "time_embedding.linear_1.weight")
    if any(name.startswith(("time_proj.", "class_embedding.linear")) for name in state):
        raise ValueError("it embeds its times by Fourier features, or its classes by layers, which d2o lacks")
    facts: dict[str, Any] = {
        "in_channels": rows(state, "conv_in.weight", 1),
        "out_channels": rows(state, "conv_out.weight"),
        "block_out_channels": widths,
        "layers_per_block": each,
        "down_block_types": [name_block(state, "Down", level) for level in range(levels)],
        "up_block_types": [name_block(state, "Up", level) for level in range(levels)],
        "resnet_time_scale_shift": "scale_shift" if told == 2 * shifted else "default",
        "add_attention": any(name.startswith("mid_block.attentions.0.") for name in state),
    }
    if not facts["add_attention"] and "mid_block.resnets.0.conv1.weight" not in state:
        facts |= {"mid_block_type": None, "add_attention": True}
    for name, way in (("downsample_type", "down"), ("upsample_type", "up")):
        blocks = any(f"{way}_blocks.{n}.{way}samplers.0.norm1.weight" in state for n in range(levels))
        facts[name] = "resnet" if blocks else "conv"
    facts |= {"time_embedding_dim": embedded} if embedded != 4 * widths[0] else {}
    facts |= {"num_class_embeds": rows(state, "class_embedding.weight")} if "class_embedding.weight" in state else {}
    return facts


def name_block(state: Mapping[str, Tensor], way: str, level: int) -> str:
    block = f"{way.lower()}_blocks.{level}"
    if f"{block}.attentions.0.group_norm.weight" in state:
        return f"Attn{way}Block2D"
    resamples = f"{block}.{way.lower()}samplers.0.norm1.weight" in state
    return f"Resnet{way}sampleBlock2D" if resamples else f"{way}Block2D"
