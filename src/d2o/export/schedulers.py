"""Schedulers of diffusers whose only step is ours, and the parts of a pipeline that they stand in."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import Boundary, Discrete, Epsilon
from d2o.errors import CheckpointError

from .one_step import compute_step

NO_BOUNDARY = 1e-8
"""The `sigma_min` with which the boundary form is EDM's, to the last bit at the noise levels that one starts from."""
ONE_STEP = (
    "for float32, as its errors are multiplied by sigma; its schedule ends at its single step: num_inference_steps=1"
)


class Parts(NamedTuple):
    """A pipeline's class, its network, its scheduler, and what its user must know.

    The network's `place` is the name of its folder; one that is `latent` has an autoencoder beside it. `missing` are
    the pipeline's parts that are left out.
    """

    pipeline: str
    network: Any
    scheduler: Any
    notes: tuple[str, ...] = ()
    place: str = "unet"
    latent: bool = False
    missing: Mapping[str, Any] = {}


def import_diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise CheckpointError("Folders of diffusers need it: pip install -e '.[diffusers]' in d2o's folder") from error
    return diffusers


def make_consistency_scheduler(denoiser: Denoiser, family: Any = None) -> Any:
    """Return the scheduler that starts at the denoiser's `sigma_max` with the coefficients of the boundary form."""
    family = family or denoiser.preconditioning
    return import_diffusers().CMStochasticIterativeScheduler(
        sigma_min=family.sigma_min if isinstance(family, Boundary) else NO_BOUNDARY,
        sigma_max=denoiser.sigma_max,
        sigma_data=family.sigma_data,
        clip_denoised=False,
    )


def make_ddim_scheduler(denoiser: Denoiser) -> tuple[Any, float]:
    """Return a scheduler whose only step is ours, and the factor that the network's output then still needs.

    DDIM's image is z / sqrt(a) - sqrt(1 / a - 1) network for the noise, and sqrt(a) z - sqrt(1 - a) network for the
    velocity, where a is what is left of the signal. Ours is identity * z + output * network.
    """
    family = denoiser.preconditioning
    ours, velocity = compute_step(denoiser), not isinstance(family, Epsilon)
    remains = ours["identity"] ** (2 if velocity else -2)
    levels = family.levels if isinstance(family, Discrete) else torch.empty(0, dtype=torch.float64)
    earlier = 1 / (1 + levels[: round(ours["time"])].square())
    betas = (1 - earlier / torch.cat([torch.ones(1, dtype=torch.float64), earlier])[:-1]).float()
    before = (1 - betas).cumprod(0)[-1].double().item() if len(betas) else 1.0  # as diffusers multiplies them
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
    first.weight.mul_(scale)
    for parameter in last.parameters():
        parameter.mul_(factor)
