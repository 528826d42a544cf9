"""DiT checkpoints: state dicts of facebookresearch/DiT, and DiTTransformer2DModel of diffusers."""

import math
import re
from collections.abc import Mapping
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
MARKS = ("x_embedder.proj.weight", "final_layer.linear.weight", "blocks.0.adaLN_modulation.1.weight", "pos_embed")
LAST_LAYER = ("final_layer.linear.weight", "final_layer.linear.bias")

# How names of diffusers' begin, and the original ones; * is a block's number. Its q, k and v are apart.
NAMES: tuple[tuple[str, str], ...] = (
    ("pos_embed.proj.", "x_embedder.proj."),
    ("proj_out_1.", "final_layer.adaLN_modulation.1."),
    ("proj_out_2.", "final_layer.linear."),
    ("transformer_blocks.*.norm1.emb.timestep_embedder.linear_1.", "blocks.*.t_embedder.mlp.0."),
    ("transformer_blocks.*.norm1.emb.timestep_embedder.linear_2.", "blocks.*.t_embedder.mlp.2."),
    ("transformer_blocks.*.norm1.emb.class_embedder.", "blocks.*.y_embedder."),
    ("transformer_blocks.*.norm1.linear.", "blocks.*.adaLN_modulation.1."),
    ("transformer_blocks.*.attn1.to_q.", "blocks.*.attn.q."),
    ("transformer_blocks.*.attn1.to_k.", "blocks.*.attn.k."),
    ("transformer_blocks.*.attn1.to_v.", "blocks.*.attn.v."),
    ("transformer_blocks.*.attn1.to_out.0.", "blocks.*.attn.proj."),
    ("transformer_blocks.*.ff.net.0.proj.", "blocks.*.mlp.fc1."),
    ("transformer_blocks.*.ff.net.2.", "blocks.*.mlp.fc2."),
)
DIFFUSERS_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": None,
    "num_layers": 28,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "norm_eps": 1e-5,
}
FIXED: dict[str, Any] = {
    "norm_type": "ada_norm_zero",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
}
IGNORED = ("dropout", "norm_num_groups", "upcast_attention", "attention_type")
"""Settings without influence on a DiT that is not in training."""


def recognise(state: Mapping[str, Any]) -> bool:
    """Return whether these are weights of facebookresearch/DiT."""
    return all(name in state for name in MARKS)


def from_state(state: Mapping[str, Tensor], path: Path, num_heads: int | None = None) -> Denoiser:
    """Return the denoiser of a facebookresearch/DiT state dict, without its learned sigma."""
    with name_file(path):
        spec = describe(state, num_heads)
    return native.make(path, spec, drop_sigma(dict(state), spec))


def translate_diffusers(
    config: Mapping[str, Any], state: Mapping[str, Tensor], family: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return description and weights of a DiTTransformer2DModel with this `config`, without its learned sigma.

    Its blocks have embedders of their own; where they are all equal, as in the published models, they become one.
    """
    tensors = join_attention({rename(name): tensor for name, tensor in state.items()})
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
    for name in LAST_LAYER:
        if name in tensors and len(tensors[name]) == 2 * side * channels:
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
        raise ValueError(
            f"it is a DiT of width {channels}, which is none of the published {', '.join(map(str, HEADS))}: say how "
            "many attention heads it has: num_heads=... (d2o inspect and d2o convert: --num-heads)"
        )
    resolution = math.isqrt(places) * patch_size
    backbone = {
        "kind": "dit",
        "resolution": resolution,
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
    """Return the description, as in our own files, of what a DiTTransformer2DModel's config says."""
    for name, value in config.items():
        if name in DIFFUSERS_DEFAULTS or name in IGNORED or name.startswith("_"):
            continue
        if value != FIXED[name] if name in FIXED else value not in (None, False):
            raise ValueError(
                f"it is a transformer of diffusers with {name[:60]} = {str(value)[:60]}, which d2o does not know: it "
                f"reads DiT alone, with {', '.join(f'{key} = {value}' for key, value in FIXED.items())}"
            )
    given = {name: config.get(name, default) for name, default in DIFFUSERS_DEFAULTS.items()}
    if not all(type(given[name]) is int for name in given if name not in ("out_channels", "norm_eps")):
        raise ValueError("its config is not a DiT's: sizes must be whole numbers")
    in_channels = given["in_channels"]
    outputs = in_channels if given["out_channels"] is None else given["out_channels"]
    backbone = {
        "kind": "dit",
        "resolution": given["sample_size"],
        "in_channels": in_channels,
        "out_channels": count_noise_channels(outputs, in_channels),
        "num_classes": given["num_embeds_ada_norm"],
        "patch_size": given["patch_size"],
        "channels": given["num_attention_heads"] * given["attention_head_dim"],
        "num_blocks": given["num_layers"],
        "num_heads": given["num_attention_heads"],
        "embedders": "shared" if shared else "per block",
        "time_endpoint": True,
        "mlp_eps": given["norm_eps"],
    }
    return native.compose(backbone, family)


def count_noise_channels(outputs: object, in_channels: int) -> int:
    """Return how many of the output's channels predict the noise: all, or the first half where sigma was learned."""
    if outputs not in (in_channels, 2 * in_channels):
        raise ValueError(
            f"it is a DiT of {in_channels} input and {str(outputs)[:20]} output channels: it should have as many "
            "outputs as inputs, or twice as many"
        )
    return in_channels


def rename(name: str, back: bool = False) -> str:
    """Return the original name of a parameter of diffusers' DiT, or `back`; a name that is in no row stays."""
    for row in NAMES:
        old, new = reversed(row) if back else row
        if found := re.match(re.escape(old).replace(r"\*", r"(\d+)"), name):
            return new.replace("*", found[found.re.groups]) + name[found.end() :]
    return name


def join_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same tensors with q, k and v of every block as one qkv."""
    for name in [name for name in tensors if ".attn.q." in name]:
        parts = [name.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
        if all(part in tensors for part in parts):
            tensors[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([tensors.pop(part) for part in parts])
    return tensors


def share_embedders(tensors: dict[str, Tensor]) -> bool:
    """Make the blocks' embedders one when they are all equal, and tell whether they were.

    Of tensors without numbers it is assumed: those of the published models are.
    """
    rows: dict[str, list[str]] = {}
    for name in tensors:
        if found := re.match(r"blocks\.\d+\.([ty]_embedder\..*)", name):
            rows.setdefault(found[1], []).append(name)
    pairs = ((tensors[name], tensors[names[0]]) for names in rows.values() for name in names)
    if not all(one.shape == other.shape and (one.is_meta or torch.equal(one, other)) for one, other in pairs):
        return False
    for shared, names in rows.items():
        tensors[shared] = tensors[names[0]]
        for name in names:
            del tensors[name]
    return True
