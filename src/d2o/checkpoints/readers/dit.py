"""DiT checkpoints: state dicts of facebookresearch/DiT, and DiTTransformer2DModel of diffusers."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2o import backbones
from d2o.backbones.dit import positions
from d2o.checkpoints import native
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import name_file

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


def recognise(state: Mapping[str, Any]) -> bool:
    names = {"x_embedder.proj.weight", "blocks.0.adaLN_modulation.1.weight", "final_layer.linear.weight", "pos_embed"}
    return names <= state.keys()


def from_state(
    state: Mapping[str, Tensor],
    path: Path,
    num_heads: int | None = None,
    family: str | None = None,
    model: object = None,
) -> Denoiser:
    """Return the denoiser of a state dict; `model` is what its training's arguments call it."""
    with name_file(path):
        if family is None:
            check_family(model if isinstance(model, str) else path.name)
        spec = describe(state, num_heads)
    return native.make(path, spec, drop_sigma(dict(state), spec))


def check_family(name: str) -> None:
    """Raise a ValueError unless a name says DiT: SiT's weights look the same and predict a velocity."""
    words = re.findall("[a-z]+", name.lower())
    if "dit" not in words or "sit" in words:
        reason = "SiT's networks look the same and predict a velocity, which is not read yet; if it is a DiT"
        raise ValueError(f"{reason}, `d2o convert FILE OUT.safetensors --family epsilon` reads it")


def translate_diffusers(
    config: Mapping[str, Any], state: Mapping[str, Tensor], family: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return description and weights of a DiTTransformer2DModel with this `config`, without its learned sigma.

    Its blocks have embedders of their own; where they are all equal, as in the published models, they become one.
    """
    modules = locate_modules(state)
    tensors = join_attention({native.rename(name, modules): tensor for name, tensor in state.items()})
    spec = describe_diffusers(config, family, share_embedders(tensors))
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


def describe(state: Mapping[str, Tensor], num_heads: int | None = None) -> dict[str, Any]:
    """Return the description, as in our own files, that the shapes of a facebookresearch/DiT state dict tell."""

    def shape(name: str, dimensions: int) -> list[int]:
        tensor = state.get(name)
        if tensor is None or tensor.dim() != dimensions or 0 in tensor.shape:
            found = "is missing" if tensor is None else f"has shape {list(tensor.shape)}"
            raise ValueError(f"it is not a complete DiT: {name} {found}")
        return list(tensor.shape)

    channels, in_channels, patch_size, _ = shape("x_embedder.proj.weight", 4)
    places, outputs = shape("pos_embed", 3)[1], shape("final_layer.linear.weight", 2)[0]
    heads = num_heads or HEADS.get(channels)
    if heads is None:
        published = ", ".join(map(str, HEADS))
        raise ValueError(
            f"its width {channels} is none of the published {published}: `d2o convert FILE OUT.safetensors "
            "--num-heads N` tells its attention heads, as does num_heads=N"
        )
    backbone = {
        "kind": "dit",
        "resolution": math.isqrt(places) * patch_size,
        "in_channels": in_channels,
        "out_channels": count_noise_channels(outputs / patch_size**2, in_channels),
        "num_classes": shape("y_embedder.embedding_table.weight", 2)[0] - 1,
        "patch_size": patch_size,
        "channels": channels,
        "num_blocks": len({found[1] for name in state if (found := re.match(r"blocks\.(\d+)\.", name))}),
        "num_heads": heads,
        "mlp_multiplier": shape("blocks.0.mlp.fc1.weight", 2)[0] // channels,
    }
    return native.compose(backbone, {"kind": "epsilon"}, provenance={"format": "facebookresearch/DiT"})


def describe_diffusers(config: Mapping[str, Any], family: Mapping[str, Any], shared: bool) -> dict[str, Any]:
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
    return native.compose({"kind": "dit", **options}, family)


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
