"""DiT and SiT: state dicts of the authors' code, whose names are the same, and DiTTransformer2DModel of diffusers."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, StrictBool, StrictInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o import backbones
from d2o.backbones.dit import positions
from d2o.checkpoints import native
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import name_file
from d2o.records import RECORD, find

from . import arguments

FAMILIES: dict[str, dict[str, Any]] = {
    "epsilon": {"kind": "epsilon"},
    "sit": {"kind": "flow", "towards": "image"},
    "flow": {"kind": "flow"},
}
"""What the network may predict: DiT's the noise; SiT's a velocity, of a time that runs towards the image."""
PATHS = {"linear": "linear", "gvp": "trigonometric", "cosine": "trigonometric"}
"""What SiT and REPA call a flow's path -> our name."""
PROJECTORS = "projectors."
"""What REPA trains beside a SiT (arXiv 2410.06940), whose time runs towards the noise."""
STRANGE = re.compile(r"blocks\.0\.(mlp\.w12|norm[12])\.|feat_rope\.|final_layer\.norm_final\.")
"""Parts that LightningDiT (arXiv 2501.01423) has beside DiT's: SwiGLU, RMSNorm, rotary positions."""
QUERIES = "blocks.0.attn.q_norm.weight"
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Attention heads of the published widths S, B, L and XL: the weights do not show them."""

# diffusers' names of the original modules; its blocks have embedders of their own, and q, k and v apart.
OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
BLOCK = {
    "norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "norm1.emb.class_embedder.embedding_table": "y_embedder.embedding_table",
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_q": "attn.q",
    "attn1.to_k": "attn.k",
    "attn1.to_v": "attn.v",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
SETTINGS = {
    "sample_size": ("resolution", 32),
    "in_channels": ("in_channels", 4),
    "num_embeds_ada_norm": ("num_classes", 1000),
    "patch_size": ("patch_size", 2),
    "num_layers": ("num_blocks", 28),
    "num_attention_heads": ("num_heads", 16),
    "norm_eps": ("mlp_eps", 1e-5),
}
"""diffusers' name of a setting -> ours, and diffusers' default. The width is `num_attention_heads` times HEAD_DIM."""
HEAD_DIM, OUTPUTS = "attention_head_dim", "out_channels"
FIXED: dict[str, Any] = {
    "norm_type": "ada_norm_zero",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
}
IGNORED = ("dropout", "norm_num_groups", "upcast_attention", "attention_type")
"""Settings without influence on a DiT that is not in training."""


@dataclass(frozen=True, config=RECORD)
class Arguments:
    """What a network and its transport are constructed with; None where it is not said."""

    input_size: StrictInt | None = None
    patch_size: StrictInt | None = None
    in_channels: StrictInt | None = None
    hidden_size: StrictInt | None = None
    depth: StrictInt | None = None
    num_heads: StrictInt | None = None
    mlp_ratio: float | None = None
    num_classes: StrictInt | None = None
    learn_sigma: StrictBool | None = None
    qk_norm: StrictBool | None = None
    path_type: Annotated[Literal["linear", "gvp", "cosine"], BeforeValidator(lambda name: str(name).lower())] | None = (
        None
    )
    prediction: Literal["velocity", "v"] | None = None
    class_dropout_prob: Any = None  # of training alone


def recognise(state: Mapping[str, Any]) -> bool:
    names = {"x_embedder.proj.weight", "blocks.0.adaLN_modulation.1.weight", "final_layer.linear.weight", "pos_embed"}
    return names <= state.keys()


def from_state(
    state: Mapping[str, Tensor],
    path: Path,
    num_heads: int | None = None,
    family: str | None = None,
    config: Mapping[str, Any] | None = None,
    training: Mapping[Any, Any] | None = None,
    **_others: Any,
) -> Denoiser:
    """Return the denoiser of a state dict; `training` are the arguments of its training script."""
    training = training or {}
    with name_file(path):
        model = training.get("model")
        name = find_family(model if isinstance(model, str) else path.name) if family is None else family
        found = {key: training[key] for key in ("path_type", "prediction") if isinstance(training.get(key), str)}
        spec = describe(state, num_heads, found | dict(config or {}), name)
    if family is None and name != "epsilon":
        spec["provenance"]["assumed"]["family"] = name
    tensors = {name: tensor for name, tensor in state.items() if not name.startswith(PROJECTORS)}
    return native.make(path, spec, drop_sigma(tensors, spec))


def find_family(name: str) -> str:
    """Return which family a name says: the weights of DiT and SiT look the same, so a ValueError if it does not."""
    said = {"dit": "epsilon", "sit": "sit"}
    words = {said[word] for word in re.findall("[a-z]+", name.lower()) if word in said}
    if len(words) != 1:
        reason = "the weights of DiT, which predicts noise, and SiT, which predicts a velocity, look the same"
        remedy = "`--family epsilon` reads a DiT and `--family sit` a SiT, also for `d2o convert`"
        raise ValueError(f"{reason}; {remedy}")
    return words.pop()


def translate_diffusers(
    config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return description and weights of a DiTTransformer2DModel with this `config`, without its learned sigma.

    Its blocks have embedders of their own; where they are all equal, as in the published models, they become one.
    """
    modules = locate_modules(state)
    tensors = join_attention({native.rename(name, modules): tensor for name, tensor in state.items()})
    spec = describe_diffusers(config, share_embedders(tensors))
    options = spec["backbone"]
    with torch.device("meta"):
        backbones.build(options)  # what is wrong with the sizes is said before they take memory
    places = positions(options["resolution"] // options["patch_size"], options["channels"])[None]
    tensors["pos_embed"] = places.to("meta") if any(tensor.is_meta for tensor in state.values()) else places
    return spec, drop_sigma(tensors, spec)


def drop_sigma(tensors: dict[str, Tensor], spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return weights under our names, the last layer's without the half that predicts sigma."""
    side, channels = spec["backbone"]["patch_size"] ** 2, spec["backbone"]["out_channels"]
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        if name in tensors and tensors[name].shape[:1] == (2 * side * channels,):
            rows = tensors[name].unflatten(0, (side, 2, channels))  # of each pixel: the noise, then sigma
            tensors[name] = rows[:, 0].flatten(0, 1)
    return {f"backbone.{name}": tensor for name, tensor in tensors.items()}


def describe(
    state: Mapping[str, Tensor],
    num_heads: int | None = None,
    config: Mapping[str, Any] | None = None,
    family: str = "epsilon",
) -> dict[str, Any]:
    """Return the description, as in our own files, that the shapes of the authors' state dict and arguments tell."""

    def shape(name: str, dimensions: int) -> list[int]:
        tensor = state.get(name)
        if tensor is None or tensor.dim() != dimensions or 0 in tensor.shape:
            found = "is missing" if tensor is None else f"has shape {list(tensor.shape)}"
            raise ValueError(f"it is not a complete DiT: {name} {found}")
        return list(tensor.shape)

    strange = next((name for name in state if STRANGE.match(name)), None)
    if QUERIES in state and QUERIES.replace("weight", "bias") not in state:
        strange = strange or QUERIES  # an RMSNorm
    if strange:
        reason = "it is a LightningDiT, or another transformer with SwiGLU, RMSNorm or rotary positions"
        raise ValueError(f"{reason} ({strange[:60]}), which d2o's DiT does not have: see docs/how-to/own-network.md")
    channels, in_channels, patch_size, _ = shape("x_embedder.proj.weight", 4)
    places, outputs = shape("pos_embed", 3)[1], shape("final_layer.linear.weight", 2)[0]
    facts = {"input_size": math.isqrt(places) * patch_size, "patch_size": patch_size, "in_channels": in_channels}
    facts |= {"hidden_size": channels, "learn_sigma": outputs == 2 * in_channels * patch_size**2}
    facts["num_classes"] = shape("y_embedder.embedding_table.weight", 2)[0] - 1
    facts["depth"] = len({found[1] for name in state if (found := re.match(r"blocks\.(\d+)\.", name))})
    facts["mlp_ratio"] = shape("blocks.0.mlp.fc1.weight", 2)[0] // channels
    facts["qk_norm"] = QUERIES in state
    facts |= {"num_heads": channels // shape(QUERIES, 1)[0]} if QUERIES in state else {}
    given = arguments.read(Arguments, config, facts)
    preconditioning, assumed = choose_family(state, family, given)
    heads = facts.get("num_heads") or num_heads or given.num_heads or HEADS.get(channels)
    if heads is None:
        published = ", ".join(map(str, HEADS))
        raise ValueError(
            f"its width {channels} is none of the published {published}: `d2o convert FILE OUT.safetensors "
            "--num-heads N` tells its attention heads, as does num_heads=N"
        )
    backbone = {
        "kind": "dit",
        "resolution": facts["input_size"],
        "in_channels": in_channels,
        "out_channels": count_noise_channels(outputs / patch_size**2, in_channels),
        "num_classes": facts["num_classes"],
        "patch_size": patch_size,
        "channels": channels,
        "num_blocks": facts["depth"],
        "num_heads": heads,
        "mlp_multiplier": facts["mlp_ratio"],
        "qk_norm": facts["qk_norm"],
    }
    source = "facebookresearch/DiT" if family == "epsilon" else "SiT"
    return native.compose(backbone, preconditioning, provenance={"format": source, "assumed": assumed})


def choose_family(state: Mapping[str, Any], family: str, given: Arguments) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the description of the preconditioning, and what of it was assumed."""
    chosen = find(family, FAMILIES, "family of these weights")
    if family == "epsilon":
        if given.path_type or given.prediction:
            raise ValueError("it has the arguments of a flow, path_type or prediction, and so the family sit")
        return chosen, {}
    if any(name.startswith(PROJECTORS) for name in state):
        chosen = FAMILIES["flow"]
    assumed = {} if given.path_type else {"path_type": "linear"}
    return chosen | {"path": PATHS[given.path_type or "linear"]}, assumed


def describe_diffusers(config: Mapping[str, Any], shared: bool) -> dict[str, Any]:
    for name, value in config.items():
        if name in (*SETTINGS, HEAD_DIM, OUTPUTS, *IGNORED) or name.startswith("_"):
            continue
        if value != FIXED[name] if name in FIXED else value not in (None, False):
            known = ", ".join(f"{key} = {value}" for key, value in FIXED.items())
            raise ValueError(f"it has {name[:60]} = {str(value)[:60]}; of transformers d2o reads DiT, with {known}")
    options = {ours: config.get(theirs, default) for theirs, (ours, default) in SETTINGS.items()}
    head_dim, channels, outputs = config.get(HEAD_DIM, 72), options["in_channels"], config.get(OUTPUTS)
    if not all(type(size) is int for size in (head_dim, channels, options["num_heads"], options["num_blocks"])):
        raise ValueError("its config is not a DiT's: sizes must be whole numbers")
    options["channels"] = options["num_heads"] * head_dim
    options["out_channels"] = count_noise_channels(channels if outputs is None else outputs, channels)
    options |= {"embedders": "shared" if shared else "per block", "time_endpoint": True}
    return native.compose({"kind": "dit", **options}, {})


def count_noise_channels(outputs: object, in_channels: int) -> int:
    if outputs not in (in_channels, 2 * in_channels):
        wanted = f"{in_channels} or, with a learned sigma, {2 * in_channels}"
        raise ValueError(f"it has {in_channels} input and {str(outputs)[:20]} output channels, not {wanted}")
    return in_channels


def locate_modules(names: Iterable[str]) -> dict[str, str]:
    """Return the original name of each module of diffusers' DiT that has the blocks in these names, of either kind."""
    blocks = {found[1] for name in names if (found := re.match(r"(?:transformer_)?blocks\.(\d+)\.", name))}
    inner = {f"transformer_blocks.{i}.{theirs}": f"blocks.{i}.{ours}" for i in blocks for theirs, ours in BLOCK.items()}
    return OUTER | inner


def join_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for name in [name for name in tensors if ".attn.q." in name]:
        parts = [name.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
        shapes = {tensors[part].shape if part in tensors else None for part in parts}
        if len(shapes) == 1 and shapes != {torch.Size()}:
            tensors[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([tensors.pop(part) for part in parts])
    return tensors


def share_embedders(tensors: dict[str, Tensor]) -> bool:
    """Make the blocks' embedders one when they are all equal (assumed on the meta device), and return whether."""
    rows: dict[str, list[str]] = defaultdict(list)
    for name in tensors:
        if found := re.match(r"blocks\.\d+\.([ty]_embedder\..*)", name):
            rows[found[1]].append(name)
    pairs = ((tensors[name], tensors[names[0]]) for names in rows.values() for name in names)
    if not all(one.shape == other.shape and (one.is_meta or torch.equal(one, other)) for one, other in pairs):
        return False
    for shared, names in rows.items():
        tensors[shared], *_ = (tensors.pop(name) for name in names)
    return True
