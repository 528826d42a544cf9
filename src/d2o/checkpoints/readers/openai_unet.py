"""State dicts of OpenAI's U-Net: consistency_models with their teachers, guided-diffusion and improved-diffusion.

It is the ADM network under other names (arXiv 2303.01469, 2105.05233, 2102.09672). Sizes are read from shapes. What
weights do not show is taken from the constructor's arguments, or else from what the released models have, and said.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, StrictBool, StrictInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.checkpoints import native
from d2o.checkpoints.native import rows
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import Number
from d2o.errors import name_file
from d2o.records import RECORD, find

from . import arguments
from .dit import FAMILIES as TRANSFORMERS

PIXELS = {
    (1, 2, 2, 2): 32, (1, 2, 3, 4): 64, (1, 1, 2, 3, 4): 128, (1, 1, 2, 2, 4, 4): 256, (0.5, 1, 1, 2, 2, 4, 4): 512,
}  # fmt: skip
"""The multipliers of the levels' widths -> the side of the images that the released models have with them."""
COSINE_UP_TO = 64
"""The side of the largest images that were trained with the cosine schedule."""
RELEASED: dict[tuple[int, int], dict[str, Any]] = {
    (64, 192): {"num_head_channels": 64, "use_new_attention_order": True},
    (256, 256): {"num_head_channels": 64},
    (512, 256): {"num_head_channels": 64},
}
"""Side of the images and width of guided-diffusion's models -> where they depart from the defaults of its scripts."""
CONSISTENCY = {"num_head_channels": 64, "use_new_attention_order": True}
SCRIPTS_HEADS, CONSTRUCTOR_HEADS = 4, 1
"""How many attention heads are meant where nobody says: by the scripts, and by the constructor."""
GROUPS = 32
LOGARITHMIC, TIME_SCALE = {"boundary": {"kind": "boundary"}, "edm": {"kind": "edm"}}, 250.0
"""Consistency models, and the teachers that are published beside them, take 250 ln(sigma) as the time."""
FAMILIES = TRANSFORMERS | LOGARITHMIC | {"consistency": LOGARITHMIC["boundary"], "sample": {"kind": "sample"}}
DISCRETE = ("epsilon", "sample")  # the kinds that know the times of a discrete schedule
SAID = {"cd": "boundary", "ct": "boundary", "consistency": "boundary", "edm": "edm"}
"""What words in a file's name say of a network like those of consistency_models."""
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
STEPS = 1000
STEM = "input_blocks.0.0.weight"
OUTER = {
    "time_embed.0": "map_layer0", "time_embed.2": "map_layer1", "label_emb": "map_label",
    "out.0": "out_norm", "out.2": "out_conv",
}  # fmt: skip
RESIDUAL = {
    "in_layers.0": "norm0", "in_layers.2": "conv0", "emb_layers.1": "affine", "out_layers.0": "norm1",
    "out_layers.3": "conv1", "skip_connection": "skip",
}  # fmt: skip
RESAMPLING = {"op": "conv0", "conv": "conv0"}
"""The convolutions that stand for resampling blocks."""
ATTENTION = {"norm": "norm2", "qkv": "qkv", "proj_out": "proj"}
UPS = tuple(f"{part}.{layer}.weight" for part in (1, 2) for layer in ("in_layers.2", "conv"))
"""What doubles the image at the end of an output block, after its attention if it has one."""


@dataclass(frozen=True, config=RECORD)
class Arguments:
    """What `UNetModel` and the diffusion are constructed with, under the names of both; None where it is not said."""

    image_size: StrictInt | None = None
    in_channels: StrictInt | None = None
    out_channels: StrictInt | None = None
    model_channels: StrictInt | None = None
    num_channels: StrictInt | None = None
    num_res_blocks: StrictInt | None = None
    num_classes: StrictInt | None = None
    class_cond: StrictBool | None = None
    learn_sigma: StrictBool | None = None
    use_scale_shift_norm: StrictBool | None = None
    resblock_updown: StrictBool | None = None
    num_heads: StrictInt | None = None
    num_head_channels: StrictInt | None = None
    num_heads_upsample: StrictInt = -1
    use_new_attention_order: StrictBool | None = None  # not of consistency models, whose order is always the new one
    noise_schedule: Literal["linear", "cosine"] | None = None
    diffusion_steps: Annotated[int, Field(strict=True, ge=1)] | None = None
    rescale_timesteps: StrictBool | None = None
    predict_xstart: StrictBool = False
    num_groups: Annotated[int, Field(strict=True, ge=1)] | None = None  # of norms, where a descendant has others
    time_scale: Number | None = None  # what a flow's time from 0 to 1 is multiplied by
    conv_resample: Literal[True] = True
    dims: Literal[2] = 2
    # Shown by the weights, or of no account for who has them.
    channel_mult: Any = None
    attention_resolutions: Any = None
    dropout: Any = None
    use_checkpoint: Any = None
    use_fp16: Any = None
    use_kl: Any = None
    sigma_small: Any = None
    rescale_learned_sigmas: Any = None
    timestep_respacing: Any = None


def recognise(state: Mapping[str, Any]) -> bool:
    return {"time_embed.0.weight", STEM, "middle_block.1.qkv.weight"} <= state.keys()


def from_state(
    state: Mapping[str, Tensor],
    path: Path,
    family: str | None = None,
    config: Mapping[str, Any] | None = None,
    **_others: Any,
) -> Denoiser:
    with name_file(path):
        spec, new_order = describe(state, path.name, family, config)
    denoiser = native.build(path, spec)
    assumed, is_told = spec["provenance"]["assumed"], family is not None or find_said(path.name) is not None
    if assumed and not (is_told and spec["preconditioning"]["kind"] in LOGARITHMIC) and not state[STEM].is_meta:
        arguments.warn_of(path, assumed)
    network: Any = denoiser.backbone
    modules = locate_modules(network)
    heads = {name: block.num_heads for name, block in network.named_modules() if hasattr(block, "num_heads")}
    tensors = {}
    for name, tensor in state.items():
        ours = native.rename(name, modules)
        if name in ("out.2.weight", "out.2.bias"):  # the second half are learned variances
            tensor = tensor[: spec["image_shape"][0]].clone() if tensor.dim() else tensor
        tensors[f"backbone.{ours}"] = convert(name, tensor, heads.get(ours.rpartition(".qkv.")[0], 0), new_order)
    for name, ours in denoiser.state_dict().items():
        if name.endswith("resample_filter"):  # the mean of 2 x 2 pixels, which their network computes without weights
            tensors[name] = torch.full(ours.shape, 0.25)
    native.fill(path, denoiser, tensors)
    return denoiser.eval()


def describe(
    state: Mapping[str, Tensor], name: str, family: str | None = None, config: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], bool]:
    """Return the description, as in our own files, of the network that has these weights; and its order of attention.

    The order says whether (query, key, value) come before (head, channel), or (head) before both.
    """
    facts, backbone, factors = measure(state)
    predicted = find_family(state, name, family, facts)
    kind: str = predicted["kind"]
    given = arguments.read(Arguments, config, facts)
    side = given.image_size or PIXELS.get(factors)
    if side is None:
        raise ValueError(f"its weights do not show the side of its images; {arguments.ask_for('image_size')}")
    narrowest = backbone["channels"] * min(backbone["channel_multipliers"])
    if given.num_groups is None and narrowest % GROUPS:
        reason = f"its narrowest level has {narrowest} channels, which do not form {GROUPS} groups"
        raise ValueError(f"{reason}; {arguments.ask_for('num_groups')}")
    settings = choose(given, side, facts["model_channels"], kind)
    assumed = {name: value for name, value in settings.items() if getattr(given, name) is None}
    assumed |= {} if given.image_size else {"image_size": side}
    assumed |= {} if family or facts["learn_sigma"] else {"family": kind}
    by_number = "num_heads" in settings
    backbone |= {"num_heads": settings["num_heads"]} if by_number else {"head_channels": settings["num_head_channels"]}
    backbone |= {"resolution": side, "groups": given.num_groups or GROUPS, "dropout": 0.0}
    backbone["attention_resolutions"] = [side >> level for level in backbone.pop("attention_levels")]
    told = predicted | {"time_scale": settings.get("time_scale", TIME_SCALE)}
    preconditioning = describe_noise(kind, settings, given) if kind in DISCRETE else told
    source = "consistency_models" if kind in LOGARITHMIC else "guided-diffusion"
    provenance = {"format": source, "file": name, "assumed": assumed}
    spec = native.compose(backbone, preconditioning, one_step=kind == "boundary", provenance=provenance)
    return spec, settings["use_new_attention_order"] or kind in LOGARITHMIC


def measure(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any], tuple[float, ...]]:
    """Return what shapes show: under the constructor's names, as our backbone's options, and the levels' multipliers.

    A level ends in the decoder where the image is doubled; the encoder's blocks do not show it.
    """
    channels, outputs, width = rows(state, STEM, 1), rows(state, "out.2.weight"), rows(state, "time_embed.0.weight", 1)
    if outputs not in (channels, 2 * channels) or channels == outputs == 6:
        found = f"{channels} input and {outputs} output channels"
        raise ValueError(f"it has {found}: upsamplers, and networks with other inputs than a noisy image, are not read")
    count = sum(re.fullmatch(r"output_blocks\.\d+\.0\.out_layers\.3\.weight", name) is not None for name in state)
    ups = [n for n in range(count) if any(f"output_blocks.{n}.{part}" in state for part in UPS)]
    each = ups[0] + 1 if ups else count
    if [*ups, count - 1] != list(range(each - 1, count, each)) or each < 2:
        raise ValueError(
            f"its {count} output blocks are not levels of equally many, of which each but the last doubles"
        )
    firsts = range(count - each, -1, -each)
    widths = [rows(state, f"output_blocks.{first}.0.out_layers.3.weight") for first in firsts]
    unit = width if all(wide % width == 0 for wide in widths) else math.gcd(width, *widths)
    classes = rows(state, "label_emb.weight") if "label_emb.weight" in state else 0
    embedded, shifted = (rows(state, f"input_blocks.1.0.{layer}.weight") for layer in ("emb_layers.1", "out_layers.3"))
    scales, blocks = embedded == 2 * shifted, f"input_blocks.{each}.0.op.weight" not in state
    facts = {"in_channels": channels, "out_channels": outputs, "model_channels": width, "num_channels": width}
    facts |= {"num_res_blocks": each - 1, "class_cond": classes > 0, "learn_sigma": outputs == 2 * channels}
    facts |= {"use_scale_shift_norm": scales, "num_classes": classes, **({"resblock_updown": blocks} if ups else {})}
    backbone = {
        "kind": "dhariwal_unet",
        "in_channels": channels,
        "out_channels": channels,
        "num_classes": classes,
        "channels": unit,
        "channel_multipliers": [wide // unit for wide in widths],
        "noise_embedding_multiplier": width // unit,
        "embedding_multiplier": rows(state, "time_embed.0.weight") // unit,
        "num_blocks": each - 1,
        "adaptive_scale": scales,
        "resampling": "block" if blocks else "convolution",
        "attention_levels": [n for n, first in enumerate(firsts) if f"output_blocks.{first}.1.qkv.weight" in state],
    }
    return facts, backbone, tuple(wide / width for wide in widths)


def find_said(name: str) -> str | None:
    """Return what a file's name says of its network, if it says one thing."""
    said = {SAID[word] for word in re.findall("[a-z]+", name.lower()) if word in SAID}
    return said.pop() if len(said) == 1 else None


def find_family(state: Mapping[str, Tensor], name: str, family: str | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the network predicts, by what the user says or else by what only one of the projects has."""
    if family is not None:
        chosen = find(family, FAMILIES, "family of these weights")
        if chosen["kind"] not in DISCRETE and facts["learn_sigma"]:
            found = f"its {facts['out_channels']} output channels are noise and a learned sigma"
            raise ValueError(f"{found}, which the family {family} does not predict: leave family out")
        return chosen
    # Consistency models and their teachers have convolutions of two dimensions in their attention.
    if facts["learn_sigma"] or state["middle_block.1.qkv.weight"].dim() != 4 or not facts.get("resblock_updown", True):
        return FAMILIES["epsilon"]
    return FAMILIES[find_said(name) or "boundary"]


def choose(given: Arguments, side: int, width: int, kind: str) -> dict[str, Any]:
    """Return what shapes do not show: what is given, or else what the released models have."""
    count = CONSTRUCTOR_HEADS if given.model_channels else SCRIPTS_HEADS
    defaults = {"num_head_channels": -1, "num_heads": count, "use_new_attention_order": False}
    if kind in LOGARITHMIC or not (given.model_channels or given.num_channels):  # a whole config has its own defaults
        defaults |= CONSISTENCY if kind in LOGARITHMIC else RELEASED.get((side, width), {})
    if given.num_heads:
        defaults["num_head_channels"] = -1
    if kind in DISCRETE:
        defaults |= {"noise_schedule": "cosine" if side <= COSINE_UP_TO else "linear", "diffusion_steps": STEPS}
    defaults |= {"time_scale": 1.0} if kind == "flow" else {}
    if given.time_scale and kind != "flow":
        raise ValueError(f"its config has the time_scale of a flow, and its family is {kind}: omit it there")
    chosen = {name: value if (own := getattr(given, name)) is None else own for name, value in defaults.items()}
    del chosen["num_heads" if chosen["num_head_channels"] > 0 else "num_head_channels"]
    if "num_heads" in chosen and given.num_heads_upsample not in (-1, chosen["num_heads"]):
        raise ValueError(f"its decoder has num_heads_upsample = {given.num_heads_upsample}, and d2o knows one number")
    return chosen


def describe_noise(kind: str, settings: Mapping[str, Any], given: Arguments) -> dict[str, Any]:
    schedule, steps = settings["noise_schedule"], settings["diffusion_steps"]
    if steps != STEPS and given.rescale_timesteps is None:
        remedy = "guided-diffusion's default is false, improved-diffusion's true"
        raise ValueError(f"with {steps} diffusion_steps its config must say rescale_timesteps ({remedy})")
    kind = "sample" if given.predict_xstart else kind
    family = {"kind": kind, "schedule": SCHEDULES[schedule], "steps": steps}
    if steps != STEPS:
        family |= {"beta_start": 0.1 / steps, "beta_end": 20 / steps} if schedule == "linear" else {}
        family |= {"time_scale": STEPS / steps} if given.rescale_timesteps else {}
    return family


def locate_modules(network: Any) -> dict[str, str]:
    """Return our name of each of their modules that have weights."""
    stem, *encoder = (f"enc.{name}" for name in network.enc)
    first, second, *decoder = (f"dec.{name}" for name in network.dec)
    residual = {f"input_blocks.{place}.0": block for place, block in enumerate(encoder, 1)}
    attention = {f"input_blocks.{place}.1": block for place, block in enumerate(encoder, 1)}
    residual |= {"middle_block.0": first, "middle_block.2": second}
    attention["middle_block.1"] = first
    place = -1
    for block in decoder:
        if block.endswith("_up"):  # with them it ends the block before, after its attention if it has one
            residual |= {f"output_blocks.{place}.{part}": block for part in (1, 2)}
        else:
            place += 1
            residual[f"output_blocks.{place}.0"] = attention[f"output_blocks.{place}.1"] = block
    modules = {**OUTER, "input_blocks.0.0": stem}
    for blocks, layers in ((residual, RESIDUAL | RESAMPLING), (attention, ATTENTION)):
        modules |= {f"{theirs}.{t}": f"{ours}.{o}" for theirs, ours in blocks.items() for t, o in layers.items()}
    return modules


def convert(name: str, tensor: Tensor, heads: int, new_order: bool) -> Tensor:
    """Return one of their weights in the shape and order of our layer's: (head, channel, which of the three)."""
    if name.startswith("label_emb.") and tensor.dim() == 2:
        return tensor.T.contiguous()
    if ".qkv." in name and heads and tensor.dim() and len(tensor) % (3 * heads) == 0:
        each = len(tensor) // (3 * heads)
        parts = tensor.unflatten(0, (3, heads, each) if new_order else (heads, 3, each))
        tensor = parts.movedim(0 if new_order else 1, 2).flatten(0, 2)
    if name.endswith((".qkv.weight", ".proj_out.weight")) and tensor.dim() == 3 and tensor.shape[2] == 1:
        return tensor.unsqueeze(3)  # convolutions of one dimension
    return tensor
