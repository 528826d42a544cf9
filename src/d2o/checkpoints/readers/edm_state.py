"""State dicts of EDM's networks, SongUNet and DhariwalUNet, without the arguments that EDM's pickles have beside them.

Names and shapes tell the arguments of the network. What wraps it is EDM's preconditioning, unless a user says another.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2o.checkpoints.native import rows
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import name_file
from d2o.records import find

from . import arguments, edm

FAMILIES = {
    "edm": "EDMPrecond",
    "boundary": "D2OPrecond",
    "consistency": "D2OPrecond",
    "vp": "VPPrecond",
    "ve": "VEPrecond",
    "epsilon": "iDDPMPrecond",
}
"""What the network predicts -> the class that EDM or D2O wraps it in."""
CLASS = "precond"
"""What a config may call such a class."""
LEVELS = "u"
"""The noise levels that iDDPM's class keeps beside its network, with the one of no noise."""
UNSHOWN = ("sigma_data", "eps", "beta_d", "beta_min", "C_1", "C_2", "M", "dropout")
"""What weights do not show and a class has a default for, of account for its images or for training."""
FILTERS = {2: [1, 1], 4: [1, 3, 3, 1]}
"""The filters of DDPM++ and NCSN++, by their length."""
LAYER = re.compile(r"enc\.(\d{1,4})x\1_(?:conv|block(\d{1,2})\.conv1)\.weight")
WIDTHS = "map_layer0.weight"


def recognise(state: Mapping[str, Any]) -> bool:
    names = (name.removeprefix("model.") for name in state)
    return any(f"{prefix}{WIDTHS}" in state for prefix in ("", "model.")) and any(map(LAYER.fullmatch, names))


def from_state(
    state: Mapping[str, Tensor],
    path: Path,
    family: str | None = None,
    config: Mapping[str, Any] | None = None,
    **_others: Any,
) -> Denoiser:
    """Return the denoiser of a state dict with EDM's names, with or without those of its preconditioning."""
    state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    with name_file(path):
        class_name, is_told = find_class(state, family, config or {})
        facts, given = measure(state), {name: value for name, value in (config or {}).items() if name != CLASS}
        arguments.compare(given, facts)
    settings, defaults = {"dropout": 0.0, **facts, **given}, edm.CLASSES[class_name].numbers | {"dropout": 0.0}
    assumed: dict[str, Any] = {} if is_told else {"family": "edm"}
    assumed |= {name: defaults[name] for name in UNSHOWN if name in defaults and name not in {**facts, **given}}
    provenance = {"format": "state dict with EDM's names", "file": path.name, "class": class_name, "assumed": assumed}
    tensors = {name if name == LEVELS else f"model.{name}": tensor for name, tensor in state.items()}
    denoiser = edm.make(class_name, settings, {}, tensors, path, provenance)
    if not is_told and not state[WIDTHS].is_meta:
        arguments.warn_of(path, assumed)
    return denoiser


def find_class(state: Mapping[str, Tensor], family: str | None, config: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the class around the network, and whether the weights, the user or the config say so."""
    said = [FAMILIES["epsilon"]] if LEVELS in state else []
    said += [] if family is None else [find(family, FAMILIES, "family of these weights")]
    said += [str(config[CLASS])[:60]] if CLASS in config else []
    for name in said:
        find(name, edm.CLASSES, CLASS)
    if len({*said}) > 1:
        raise ValueError(f"its weights, its config and its family say different things, {' and '.join(sorted(said))}")
    return (said[0], True) if said else (FAMILIES["edm"], False)


def measure(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the constructor's arguments that names and shapes show, under EDM's names."""
    counts: dict[int, int] = {}
    for found in filter(None, map(LAYER.fullmatch, state)):
        counts[int(found[1])] = counts.get(int(found[1]), 0) + (found[2] is not None)
    sides = sorted(counts, reverse=True)
    stem, side, each = f"enc.{sides[0]}x{sides[0]}_conv.weight", sides[0], counts[sides[0]]
    if sides != [side >> level for level in range(len(sides))] or {*counts.values()} != {each} or not each:
        found = ", ".join(f"{count} of {side}" for side, count in list(counts.items())[:10])
        raise ValueError(f"its encoder's sides are not halved, or have unlike numbers of blocks: {found}")
    is_song, in_channels = "out_conv.weight" not in state, rows(state, stem, 1)
    embedded, told = rows(state, WIDTHS), rows(state, WIDTHS, 1)
    width = rows(state, stem) if is_song else told
    widths = [rows(state, f"enc.{side}x{side}_block0.conv1.weight") for side in sides]
    if not width or any(wide % width for wide in (*widths, embedded, told)):
        raise ValueError(f"its widths {widths}, {told} and {embedded} are no multiples of {width}")
    facts: dict[str, Any] = {"model_type": "SongUNet" if is_song else "DhariwalUNet", "img_resolution": side}
    facts |= {"img_channels": in_channels, "model_channels": width, "channel_mult": [wide // width for wide in widths]}
    facts |= {"channel_mult_emb": embedded // width, "num_blocks": each}
    facts["attn_resolutions"] = [side for side in sides if f"enc.{side}x{side}_block0.qkv.weight" in state]
    for name, layer in (("label_dim", "map_label.weight"), ("augment_dim", "map_augment.weight")):
        facts[name] = rows(state, layer, 1) if layer in state else 0
    facts |= {"M": rows(state, LEVELS) - 1} if LEVELS in state else {}
    return facts | (measure_song(state, side, told // width) if is_song else {})


def measure_song(state: Mapping[str, Tensor], side: int, noise: int) -> dict[str, Any]:
    """Return the arguments that only a SongUNet has."""
    layers = {name.rpartition(".")[0].partition("_")[2] for name in state}
    images = {name for name in state if name.endswith("_aux_conv.weight")} - {f"dec.{side}x{side}_aux_conv.weight"}
    encoder = "residual" if "aux_residual" in layers else "skip" if "aux_skip" in layers else "standard"
    facts: dict[str, Any] = {
        "embedding_type": "fourier" if "map_noise.freqs" in state else "positional",
        "encoder_type": encoder,
    }
    facts |= {"decoder_type": "skip" if images else "standard", "channel_mult_noise": noise}
    name = next((name for name in state if name.endswith(".resample_filter")), None)
    if name is not None:
        taps = FILTERS.get(rows(state, name, 3), [])
        square = torch.tensor([[a * b / sum(taps) ** 2 for b in taps] for a in taps])
        if not taps or not (state[name].is_meta or torch.allclose(state[name].float().squeeze(), square, atol=1e-4)):
            raise ValueError(f"it resamples with another filter than {' and '.join(map(str, FILTERS.values()))}")
        facts["resample_filter"] = taps
    return facts
