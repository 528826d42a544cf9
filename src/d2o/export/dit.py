"""A DiT as the DiTTransformer2DModel of diffusers."""

from typing import Any

import torch
from torch import Tensor

from d2o.backbones.dit import DiT, TimeEmbedder
from d2o.checkpoints import native
from d2o.checkpoints.readers.dit import FIXED, HEAD_DIM, OUTPUTS, SETTINGS, locate_modules
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import Flow


def to_diffusers(denoiser: Denoiser) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the config and weights with which diffusers' DiTTransformer2DModel predicts the same.

    A flow, or a network of the original kind, which diffusers would tell the times a little differently, is told that
    of `sigma_max` whatever the time is: enough for one step.
    """
    backbone = denoiser.backbone
    assert isinstance(backbone, DiT)
    options = backbone.config
    tensors = {name: tensor.detach() for name, tensor in backbone.state_dict().items() if name != "pos_embed"}
    if not options["time_endpoint"] or isinstance(denoiser.preconditioning, Flow):
        time = denoiser.preconditioning(torch.tensor([denoiser.sigma_max])).noise.to(backbone.pos_embed.device)
        for name, embedder in backbone.named_modules():
            if isinstance(embedder, TimeEmbedder):
                tensors[f"{name}.mlp.0.bias"] = embedder.mlp[0](embedder.waves(time))[0].detach()
                tensors[f"{name}.mlp.0.weight"] = torch.zeros_like(tensors[f"{name}.mlp.0.weight"])
    shared = {name: tensors.pop(name) for name in list(tensors) if name.startswith(("t_embedder.", "y_embedder."))}
    for index in range(options["num_blocks"]):
        tensors |= {f"blocks.{index}.{name}": tensor.clone() for name, tensor in shared.items()}
        for kind in ("weight", "bias"):
            parts = tensors.pop(f"blocks.{index}.attn.qkv.{kind}").chunk(3)
            tensors |= {f"blocks.{index}.attn.{q}.{kind}": part for q, part in zip("qkv", parts, strict=True)}
    config = {theirs: options[ours] for theirs, (ours, _) in SETTINGS.items()}
    head_dim = options["channels"] // options["num_heads"]
    config |= {HEAD_DIM: head_dim, OUTPUTS: options["out_channels"], **FIXED}
    modules = {ours: theirs for theirs, ours in locate_modules(tensors).items()}
    return config, {native.rename(name, modules): tensor.contiguous() for name, tensor in tensors.items()}
