"""One-step generators as folders of diffusers: which pipeline is theirs, and its network and scheduler.

A pipeline makes, of unit noise z, the image A z + B network(z, time). Of DDIM's, the last beta chooses A, and the
first and last layers of the network take up what is left: a factor nearer to 1 than 1e-3.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from d2o import backbones
from . import dit
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, Boundary, Epsilon, Velocity, to_spec
from d2o.errors import CheckpointError

from . import adm
from .one_step import difference, numbers, quiet, store
from .options import Options

CONSISTENCY_TIME = 250.0
"""What stock consistency models are told: this times ln(sigma)."""
NO_BOUNDARY = 1e-8
"""The `sigma_min` with which the boundary form is EDM's, to the last bit at the noise levels that one starts from."""


class Parts(NamedTuple):
    """A pipeline's class, its network, its scheduler, and what its user must know."""

    pipeline: str
    network: Any
    scheduler: Any
    notes: tuple[str, ...] = ()


def write(denoiser: Denoiser, path: Path, options: Options) -> tuple[float, tuple[str, ...]]:
    """Write a pipeline folder, load it again, and return how far its images are from the denoiser's, and notes."""
    diffusers = import_diffusers()
    parts = parts_of(denoiser)
    modules = {"scheduler": parts.scheduler}
    modules["transformer" if parts.pipeline == "DiTPipeline" else "unet"] = store(parts.network.eval(), options.dtype)
    notes = parts.notes
    if parts.pipeline == "DiTPipeline":
        folder = options.codec or getattr(denoiser.codec, "folder", None)
        modules["vae"] = diffusers.AutoencoderKL.from_pretrained(folder, local_files_only=True) if folder else None
        if folder is None:
            notes = (*notes, "it has no autoencoder: name one with --codec, or pass vae=... when loading it")
    with quiet():
        getattr(diffusers, parts.pipeline)(**modules).save_pretrained(path, safe_serialization=True)
        error = check(denoiser, parts, path)
    return error, (f"loads with diffusers.{parts.pipeline}.from_pretrained", *notes)


def import_diffusers() -> Any:
    """Return the package diffusers, or raise the error that names the extra."""
    try:
        import diffusers
    except ImportError as error:
        raise CheckpointError(
            "Folders of diffusers need the package diffusers: pip install -e '.[diffusers]' in d2o's folder"
        ) from error
    return diffusers


def parts_of(denoiser: Denoiser) -> Parts:
    """Return the pipeline of a denoiser: a stock one where there is one for it, else our own model in a stock one."""
    reasons = []
    for family in STOCK:
        if isinstance(denoiser.backbone, family.backbone) and isinstance(denoiser.preconditioning, family.formulas):
            reason = family.obstacle(denoiser)
            if reason is None:
                return family.parts(denoiser)
            reasons.append(reason)
    return own_model(denoiser, reasons)


def adm_parts(denoiser: Denoiser) -> Parts:
    """Return a consistency pipeline with a UNet2DModel that knows one time."""
    network: Any = denoiser.backbone
    unet = import_diffusers().UNet2DModel(**adm.config(network))
    unet.load_state_dict(adm.weights(network, numbers(denoiser)["time"]), strict=True)
    return Parts("ConsistencyModelPipeline", unet, consistency_scheduler(denoiser), (ONE_TIME,))


def consistency_parts(denoiser: Denoiser) -> Parts:
    """Return a consistency pipeline with the UNet2DModel that the denoiser has already."""
    return Parts("ConsistencyModelPipeline", unet_of(denoiser), consistency_scheduler(denoiser))


def ddim_parts(denoiser: Denoiser) -> Parts:
    """Return a DDIM pipeline with the UNet2DModel of the denoiser."""
    unet = unet_of(denoiser)
    scheduler, factor = ddim_scheduler(denoiser)
    rescale(unet.conv_in, unet.conv_out, numbers(denoiser)["scale"], factor)
    return Parts("DDIMPipeline", unet, scheduler, (ONE_STEP,))


def transformer_parts(denoiser: Denoiser) -> Parts:
    """Return a DiT pipeline without its autoencoder."""
    config, weights = dit.to_diffusers(denoiser)
    model = import_diffusers().DiTTransformer2DModel(**config)
    model.load_state_dict(weights, strict=True)
    scheduler, factor = ddim_scheduler(denoiser)
    rescale(model.pos_embed.proj, model.proj_out_2, numbers(denoiser)["scale"], factor)
    return Parts("DiTPipeline", model, scheduler, (f"{ONE_STEP}, and guidance_scale=1",))


def own_model(denoiser: Denoiser, reasons: list[str]) -> Parts:
    """Return a consistency pipeline with the denoiser itself as a model of diffusers."""
    import_diffusers()
    from d2o.checkpoints.diffusers_model import D2OModel

    channels, height, width = denoiser.image_shape
    if height != width:
        raise CheckpointError(
            f"Pipelines of diffusers make square images, not {height}x{width}: use --to onnx or torch."
        )
    spec = {"kind": denoiser.backbone.kind, **denoiser.backbone.config}  # type: ignore[dict-item]
    model = D2OModel(spec, to_spec(denoiser.preconditioning), height, channels, denoiser.num_classes or None)
    model.denoiser.load_state_dict(denoiser.state_dict())
    why = f"no stock class of diffusers is this network{f' ({reasons[0]})' if reasons else ''}"
    note = f"{why}: its user must have d2o installed and `import {D2OModel.__module__}` first"
    return Parts("ConsistencyModelPipeline", model, consistency_scheduler(denoiser, Boundary()), (note,))


def consistency_scheduler(denoiser: Denoiser, family: Any = None) -> Any:
    """Return the scheduler that starts at the denoiser's `sigma_max` with the coefficients of the boundary form."""
    family = family or denoiser.preconditioning
    return import_diffusers().CMStochasticIterativeScheduler(
        sigma_min=getattr(family, "sigma_min", NO_BOUNDARY),
        sigma_max=denoiser.sigma_max,
        sigma_data=family.sigma_data,
        clip_denoised=False,
    )


def ddim_scheduler(denoiser: Denoiser) -> tuple[Any, float]:
    """Return a scheduler whose only step is ours, and the factor that the network's output then still needs.

    DDIM's image is z / sqrt(a) - sqrt(1 / a - 1) network for the noise, and sqrt(a) z - sqrt(1 - a) network for the
    velocity, where a is what is left of the signal. Ours is identity * z + output * network.
    """
    family: Any = denoiser.preconditioning
    ours = numbers(denoiser)
    velocity = isinstance(family, Velocity)
    remains = ours["identity"] ** (2 if velocity else -2)
    signal = 1 / (1 + family.levels.square())
    earlier = signal[: round(ours["time"])]
    betas = (
        (1 - earlier / torch.cat([torch.ones(1, dtype=torch.float64), earlier[:-1]])).float()
        if len(earlier)
        else earlier
    )
    before = (1 - betas.float()).cumprod(0)[-1].double().item() if len(earlier) else 1.0  # as diffusers multiplies them
    scheduler = import_diffusers().DDIMScheduler(
        num_train_timesteps=len(earlier) + 1,
        trained_betas=[*betas.tolist(), 1 - remains / before],
        prediction_type="v_prediction" if velocity else "epsilon",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    theirs = (1 - remains) ** 0.5 if velocity else (1 / remains - 1) ** 0.5
    return scheduler, -ours["output"] / theirs


@torch.no_grad()
def rescale(first: Any, last: Any, scale: float, factor: float) -> None:
    """Let a network see its input times `scale`, and give its output times `factor`."""
    first.weight.mul_(scale)
    for parameter in last.parameters():
        parameter.mul_(factor)


def unet_of(denoiser: Denoiser) -> Any:
    """Return a stock copy of the UNet2DModel within a denoiser."""
    within: Any = denoiser.backbone
    unet = import_diffusers().UNet2DModel(
        **{name: value for name, value in within.unet.config.items() if name[0] != "_"}
    )
    unet.load_state_dict(within.unet.state_dict(), strict=True)
    return unet


class Stock(NamedTuple):
    """Denoisers for which diffusers has a pipeline."""

    backbone: type[nn.Module]
    formulas: tuple[type, ...]
    obstacle: Callable[[Denoiser], str | None]
    parts: Callable[[Denoiser], Parts]


def widens_otherwise(denoiser: Denoiser) -> str | None:
    """Return why a DiTTransformer2DModel does not do: its blocks widen four times."""
    config: Any = denoiser.backbone.config
    return None if config["mlp_multiplier"] == 4 else "diffusers has DiTs with an mlp_multiplier of 4 only"


def too_narrow(denoiser: Denoiser) -> str | None:
    """Return why a UNet2DModel does not do for an ADM network."""
    network: Any = denoiser.backbone
    return adm.obstacle(network)


def needs_no_classes(denoiser: Denoiser) -> str | None:
    """Return why a DDIM pipeline does not do: it passes no labels on."""
    return "diffusers' DDIMPipeline takes no classes" if denoiser.num_classes else None


def told_as_stock(denoiser: Denoiser) -> str | None:
    """Return why a consistency pipeline does not do: its network is told another time."""
    same = getattr(denoiser.preconditioning, "time_scale", None) == CONSISTENCY_TIME
    return None if same else "it is told another time than consistency models"


ONE_TIME = "the time of its one step is part of the weights: num_inference_steps=1 only"
ONE_STEP = (
    "for float32, as its errors are multiplied by sigma; its schedule ends at its one step: num_inference_steps=1"
)
STOCK = (
    Stock(backbones.DhariwalUNet, (EDM, Boundary), too_narrow, adm_parts),
    Stock(backbones.DiffusersUNet, (Boundary,), told_as_stock, consistency_parts),
    Stock(backbones.DiffusersUNet, (Epsilon, Velocity), needs_no_classes, ddim_parts),
    Stock(backbones.DiT, (Epsilon, Velocity), widens_otherwise, transformer_parts),
)


def check(denoiser: Denoiser, parts: Parts, path: Path) -> float:
    """Return the largest difference between the denoiser's images and those of the network in a folder."""
    latent = parts.pipeline == "DiTPipeline"
    folder = path / ("transformer" if latent else "unet")
    network = type(parts.network).from_pretrained(folder, local_files_only=True)

    def run(noise: Tensor, label: Tensor | None) -> Tensor:
        scheduler = parts.scheduler
        scheduler.set_timesteps(1)
        time = scheduler.timesteps[0]
        x = noise * scheduler.init_noise_sigma
        given: dict[str, Any] = {} if label is None else {"class_labels": label}
        times = time.expand(len(x)) if latent else time
        predicted = network(scheduler.scale_model_input(x, time), timestep=times, **given).sample
        return scheduler.step(predicted, time, x).prev_sample

    return difference(denoiser, run)
