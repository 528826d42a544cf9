"""One-step generators as folders of diffusers: which pipeline is theirs, and its network and scheduler.

A pipeline makes, of unit noise z, the image A z + B network(z, time). Of DDIM's, the last beta chooses A, and the
first and last layers of the network take up what is left: a factor nearer to 1 than 1e-3. Of consistency models' it is
the deviation of the data.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2o.backbones import is_ours
from d2o.backbones.dhariwal_unet import DhariwalUNet
from d2o.backbones.diffusers_unet import DiffusersUNet
from d2o.backbones.dit import DiT
from d2o.backbones.text_to_image import TextToImage
from d2o.diffusion.condition import Text, TextWidth
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, IMAGES, Boundary, Epsilon, Flow, Velocity, to_spec
from d2o.diffusion.noise import PURE_NOISE
from d2o.encoders.codec import Autoencoder, open_network
from d2o.errors import CheckpointError

from . import adm, dit, text_to_image
from .one_step import Options, cast_module, compare, compute_step, silence
from .schedulers import (
    NO_BOUNDARY,
    ONE_STEP,
    Parts,
    import_diffusers,
    make_consistency_scheduler,
    make_ddim_scheduler,
    rescale,
)

CONSISTENCY_TIME = 250.0
"""Stock consistency models take this times ln(sigma) as the time."""
ONE_TIME = "the time of its single step is part of the weights: num_inference_steps=1 only"
ONE_CALL = "use num_inference_steps=1; the pipeline's default is 1000"
LARGEST_RATIO = 2.0**14
"""Beyond it float32 does not tell A from 1 or, below its inverse, from 0; a power of two changes no weight's digits."""


def write(denoiser: Denoiser, path: Path, options: Options) -> tuple[float, tuple[str, ...]]:
    """Write a pipeline folder, load it again, and return how far its images are from the denoiser's, and notes."""
    diffusers, parts = import_diffusers(), make_parts(denoiser)
    notes = parts.notes
    network = cast_module(parts.network.eval(), options.dtype)
    modules = {"scheduler": parts.scheduler, parts.place: network, **parts.missing}
    if parts.latent:
        folder = options.codec or (denoiser.codec.folder if isinstance(denoiser.codec, Autoencoder) else None)
        modules["vae"] = open_network(str(folder)) if folder else None
        if folder is None:
            notes = (*notes, "it has no autoencoder: name one with --codec, or pass vae=... when loading it")
    with silence():
        getattr(diffusers, parts.pipeline)(**modules).save_pretrained(path, safe_serialization=True)
        error = check(denoiser, parts, path / parts.place)
    return error, (f"loads with diffusers.{parts.pipeline}.from_pretrained", *notes)


def make_parts(denoiser: Denoiser) -> Parts:
    """Return the pipeline of a denoiser: a stock one where there is one for it, else our own model in a stock one."""
    obstacle = ""
    for backbone, families, make in STOCK if denoiser.preconditioning.image_range == IMAGES else ():
        if isinstance(denoiser.backbone, backbone) and isinstance(denoiser.preconditioning, families):
            if isinstance(parts := make(denoiser), Parts):
                return parts
            obstacle = f" ({parts})"
    return make_own_parts(denoiser, obstacle)


def make_adm_parts(denoiser: Denoiser) -> Parts | str:
    network: Any = denoiser.backbone
    if obstacle := adm.find_obstacle(network):
        return obstacle
    unet = import_diffusers().UNet2DModel(**adm.describe(network))
    unet.load_state_dict(adm.translate_weights(network, compute_step(denoiser)["time"]))
    if isinstance(denoiser.preconditioning, Flow):
        return fit_flow(denoiser, unet)
    return Parts("ConsistencyModelPipeline", unet, make_consistency_scheduler(denoiser), (ONE_TIME,))


def make_consistency_parts(denoiser: Denoiser) -> Parts | str:
    family: Any = denoiser.preconditioning
    if family.time_scale != CONSISTENCY_TIME:
        return "it takes the time in another unit than consistency models"
    return Parts("ConsistencyModelPipeline", copy_unet(denoiser), make_consistency_scheduler(denoiser))


def make_ddim_parts(denoiser: Denoiser) -> Parts | str:
    if denoiser.num_classes:
        return "diffusers' DDIMPipeline takes no classes"
    unet, (scheduler, factor) = copy_unet(denoiser), make_ddim_scheduler(denoiser)
    rescale(unet.conv_in, unet.conv_out, compute_step(denoiser)["scale"], factor)
    return Parts("DDIMPipeline", unet, scheduler, (ONE_STEP,))


def make_flow_parts(denoiser: Denoiser) -> Parts | str:
    family: Any = denoiser.preconditioning
    unet = copy_unet(denoiser)
    if unet.config["center_input_sample"]:
        return "it moves its input, so that its first layer cannot be scaled"
    if denoiser.num_classes or not is_straight(denoiser) or family.time_scale % 1:
        bake_time(unet, compute_step(denoiser)["time"])
        return fit_flow(denoiser, unet)
    scheduler = import_diffusers().FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=int(family.time_scale), invert_sigmas=family.towards == "image"
    )
    return Parts("DDPMPipeline", unet, scheduler, (ONE_CALL,))


def is_straight(denoiser: Denoiser) -> bool:
    """Return whether one step adds the network's output to, or takes it from, what the network was given."""
    return denoiser.preconditioning.path == "linear" and denoiser.sigma_max == PURE_NOISE  # type: ignore[attr-defined]


def fit_flow(denoiser: Denoiser, unet: Any) -> Parts:
    """Return the pipeline of consistency models whose step from noise of deviation 1 is a flow's.

    With the data's deviation d, n = sqrt(1 + d^2), it makes d^2 / n^2 z + d / n network(z / n).
    """
    ours = compute_step(denoiser)
    ratio = (ours["identity"] / (1 - ours["identity"])) ** 0.5
    deviation = min(max(ratio, 1 / LARGEST_RATIO), LARGEST_RATIO)
    norm = (1 + deviation**2) ** 0.5
    rescale(unet.conv_in, unet.conv_out, norm * ours["scale"], norm / deviation * ours["output"])
    scheduler = import_diffusers().CMStochasticIterativeScheduler(
        sigma_min=NO_BOUNDARY, sigma_max=1.0, sigma_data=deviation, clip_denoised=False
    )
    return Parts("ConsistencyModelPipeline", unet, scheduler, (f"for float32; {ONE_TIME}",))


@torch.no_grad()
def bake_time(unet: Any, time: float) -> None:
    """Make the embedding of one time a bias, whatever time the network is told."""
    layer = unet.time_embedding.linear_1
    layer.bias.copy_(layer(unet.time_proj(torch.tensor([time])))[0])
    layer.weight.zero_()


def make_dit_parts(denoiser: Denoiser) -> Parts | str:
    network: Any = denoiser.backbone
    if network.config["mlp_multiplier"] != 4:
        return "diffusers has only DiTs with an mlp_multiplier of 4"
    is_flow, ours = isinstance(denoiser.preconditioning, Flow), compute_step(denoiser)
    if is_flow and denoiser.sigma_max != PURE_NOISE:
        return "it starts from less than pure noise"
    if is_flow and is_straight(denoiser):
        if not hasattr(diffusers := import_diffusers(), "FlowMapEulerDiscreteScheduler"):
            return "diffusers has the scheduler that it needs from version 0.39 on"
        scheduler, factor = diffusers.FlowMapEulerDiscreteScheduler(), -ours["output"]
    else:
        scheduler, factor = make_ddim_scheduler(denoiser)
    if network.config["qk_norm"]:
        return "diffusers' DiT does not normalise queries and keys"
    config, weights = dit.to_diffusers(denoiser)
    model = import_diffusers().DiTTransformer2DModel(**config)
    model.load_state_dict(weights)
    rescale(model.pos_embed.proj, model.proj_out_2, ours["scale"], factor)
    notes = (f"{ONE_TIME if is_flow else ONE_STEP}, and guidance_scale=1",)
    return Parts("DiTPipeline", model, scheduler, notes, "transformer", latent=True)


def make_own_parts(denoiser: Denoiser, obstacle: str) -> Parts:
    import_diffusers()
    if isinstance(denoiser.vocabulary, TextWidth):
        why = f"No stock pipeline of diffusers makes the images of this generator in one step{obstacle}"
        raise CheckpointError(f"{why}: use --to safetensors.")
    from d2o.checkpoints.diffusers_model import D2OModel

    channels, height, width = denoiser.image_shape
    if height != width:
        raise CheckpointError(f"diffusers pipelines make square images, not {height}x{width}: use --to onnx.")
    spec = {"kind": denoiser.backbone.kind, **denoiser.backbone.config}  # type: ignore[dict-item]
    model = D2OModel(spec, to_spec(denoiser.preconditioning), height, channels, denoiser.num_classes or None)
    model.denoiser.load_state_dict(denoiser.state_dict())
    why = f"no stock class of diffusers matches this network{obstacle}"
    note = f"{why}: users must have d2o installed and `import {D2OModel.__module__}` first"
    note += "" if is_ours(denoiser.backbone.kind) else ", and the module that registers the network"
    return Parts("ConsistencyModelPipeline", model, make_consistency_scheduler(denoiser, Boundary()), (note,))


def copy_unet(denoiser: Denoiser) -> Any:
    within: Any = denoiser.backbone.unet
    unet = import_diffusers().UNet2DModel(**{name: value for name, value in within.config.items() if name[0] != "_"})
    unet.load_state_dict(within.state_dict())
    return unet


STOCK: tuple[tuple[type[nn.Module], tuple[type, ...], Callable[[Denoiser], Parts | str]], ...] = (
    (DhariwalUNet, (EDM, Boundary, Flow), make_adm_parts),
    (DiffusersUNet, (Boundary,), make_consistency_parts),
    (DiffusersUNet, (Epsilon, Velocity), make_ddim_parts),
    (DiffusersUNet, (Flow,), make_flow_parts),
    (DiT, (Epsilon, Velocity, Flow), make_dit_parts),
    (TextToImage, (Flow,), text_to_image.make_flow_parts),
    (TextToImage, (Epsilon, Velocity), text_to_image.make_ddim_parts),
)
"""For which backbones and families diffusers may have a pipeline, and what makes it, or says why there is none."""


def check(denoiser: Denoiser, parts: Parts, folder: Path) -> float:
    network, scheduler = type(parts.network).from_pretrained(folder, local_files_only=True), parts.scheduler

    def run(noise: Tensor, label: Any) -> Tensor:
        if isinstance(label, Text):
            return text_to_image.run(denoiser, network, scheduler, noise, label)
        scheduler.set_timesteps(1)
        time, is_plain = scheduler.timesteps[0], parts.pipeline == "DDPMPipeline"
        x = noise * scheduler.init_noise_sigma if parts.pipeline == "ConsistencyModelPipeline" else noise
        given: dict[str, Any] = {} if label is None else {"class_labels": label}
        times = time.expand(len(x)) if parts.pipeline == "DiTPipeline" else time
        predicted = network(x if is_plain else scheduler.scale_model_input(x, time), timestep=times, **given).sample
        return scheduler.step(predicted, time, x).prev_sample

    return compare(denoiser, run)
