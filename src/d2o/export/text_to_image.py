"""One-step text-to-image generators as the stock pipelines of diffusers, to which their base gives its text encoders.

A flow from pure noise needs no trick: the network and a scheduler of one step are the generator. One that predicts
noise or velocity gets the scheduler of DDIM that ends at its step, and scaled first and last layers.
"""

from copy import deepcopy
from typing import Any, NamedTuple

from torch import Tensor

from d2o.diffusion.condition import Text
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import PURE_NOISE
from d2o.errors import CheckpointError

from .one_step import compute_step
from .schedulers import ONE_STEP, Parts, import_diffusers, make_ddim_scheduler, rescale

ENCODERS = tuple(f"{part}{number}" for number in ("", "_2", "_3") for part in ("text_encoder", "tokenizer"))
SD_PARTS = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


class Stock(NamedTuple):
    """A pipeline, how many text encoders it has, and the argument by which it makes one call an image.

    `first` and `last` are the layers of its network that may be scaled.
    """

    pipeline: str
    encoders: int
    guidance: str = "guidance_scale=1.0"
    first: str = ""
    last: str = ""


PIPELINES = {
    "UNet2DConditionModel": Stock("StableDiffusionPipeline", 1, first="conv_in", last="conv_out"),
    "PixArtTransformer2DModel": Stock("PixArtAlphaPipeline", 1, first="pos_embed.proj", last="proj_out"),
    "SD3Transformer2DModel": Stock("StableDiffusion3Pipeline", 3),
    "SanaTransformer2DModel": Stock("SanaPipeline", 1),
    "FluxTransformer2DModel": Stock("FluxPipeline", 2, "guidance_scale={guidance}"),
    "Lumina2Transformer2DModel": Stock("Lumina2Pipeline", 1),
    "QwenImageTransformer2DModel": Stock("QwenImagePipeline", 1, "true_cfg_scale=1.0"),
    "ZImageTransformer2DModel": Stock("ZImagePipeline", 1, "guidance_scale=0.0"),
}
"""Network -> the pipeline that it stands in."""
SDXL = PIPELINES["UNet2DConditionModel"]._replace(pipeline="StableDiffusionXLPipeline", encoders=2)


def find_pipeline(denoiser: Denoiser) -> Stock:
    """Return the pipeline of a text-to-image network; SDXL's is told more than that of Stable Diffusion."""
    network: Any = denoiser.backbone
    is_sdxl = network.config["settings"].get("addition_embed_type") is not None
    return SDXL if is_sdxl else PIPELINES[network.config["network"]]


def describe_call(denoiser: Denoiser) -> str:
    """Return the arguments with which a pipeline makes an image in one call of the network."""
    network: Any = denoiser.backbone
    return f"num_inference_steps=1, {find_pipeline(denoiser).guidance.format(guidance=network.guidance or 1.0)}"


def list_missing(stock: Stock) -> dict[str, Any]:
    """Return the parts of a pipeline that only its base has."""
    missing: dict[str, Any] = dict.fromkeys(ENCODERS[: 2 * stock.encoders])
    return missing | (SD_PARTS if stock.pipeline == "StableDiffusionPipeline" else {})


def make_parts(denoiser: Denoiser, network: Any, scheduler: Any, *notes: str) -> Parts:
    stock = find_pipeline(denoiser)
    try:
        import transformers  # noqa: F401  without it diffusers' pipelines are empty
    except ImportError as error:
        raise CheckpointError(f"{stock.pipeline} needs transformers: pip install transformers") from error
    place = "unet" if stock.first == "conv_in" else "transformer"
    call = f"its text encoders are those of its base, as the program on its card shows; {describe_call(denoiser)}"
    return Parts(stock.pipeline, network, scheduler, (*notes, call), place, latent=True, missing=list_missing(stock))


def make_flow_parts(denoiser: Denoiser) -> Parts | str:
    """Return the pipeline of a flow: its own network, and a scheduler of one step."""
    backbone: Any = denoiser.backbone
    family: Any = denoiser.preconditioning
    if family.path != "linear" or denoiser.sigma_max != PURE_NOISE:
        return "it starts from less than pure noise, or its path is not linear"
    settings, times = backbone.config["settings"], 1000
    if backbone.row.time is None:  # the network is told the scheduler's own times
        times = round(family.time_scale / settings.get("timestep_scale", 1.0))
    scheduler = import_diffusers().FlowMatchEulerDiscreteScheduler(num_train_timesteps=times)
    return make_parts(denoiser, deepcopy(backbone.network), scheduler)


def make_ddim_parts(denoiser: Denoiser) -> Parts | str:
    """Return the pipeline of a network that predicts noise or velocity, with scaled first and last layers."""
    stock, backbone = find_pipeline(denoiser), denoiser.backbone
    if not stock.first:
        return "its pipeline takes flows only"
    network: Any = deepcopy(backbone.network)
    scheduler, factor = make_ddim_scheduler(denoiser)
    first, last = (network.get_submodule(name) for name in (stock.first, stock.last))
    rescale(first, last, compute_step(denoiser)["scale"], factor)
    return make_parts(denoiser, network, scheduler, ONE_STEP)


def run(denoiser: Denoiser, network: Any, scheduler: Any, noise: Tensor, text: Text) -> Tensor:
    """Return what the pipeline makes of unit noise [N,C,H,W] in one step, by its network and scheduler."""
    backbone: Any = denoiser.backbone
    row, settings = backbone.row, backbone.config["settings"]
    scheduler.set_timesteps(1)
    time, total = scheduler.timesteps[0], scheduler.config["num_train_timesteps"]
    told = time * settings.get("timestep_scale", 1.0) if row.time is None else time / total
    told, sign = (1 - told, -1) if row.towards == "image" else (told, 1)
    guidance = None if backbone.guidance is None else noise.new_full((len(noise),), backbone.guidance)
    predicted = row.call(network, noise, told.expand(len(noise)), text, guidance)[:, : backbone.out_channels]
    return scheduler.step(sign * predicted, time, noise).prev_sample
