"""The scheduler of a diffusers folder: what the network predicts and which times it is told, by the config's keys.

Which sampler came with a network is no matter.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, StrictBool
from pydantic.dataclasses import dataclass

from d2o.diffusion.families import Number
from d2o.diffusion.noise import PURE_NOISE
from d2o.records import RECORD, Real, Whole, validate

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "velocity", "sample": "sample"}
"""Their word for what a network predicts, of a discrete schedule -> our family."""
BETAS = {"beta_schedule", "beta_start", "beta_end", "trained_betas"}
CONSISTENCY = "CMStochasticIterativeScheduler"
SCHEDULE = {"schedule": "beta_schedule", "beta_start": "beta_start", "beta_end": "beta_end"}
SCHEDULE["steps"] = "num_train_timesteps"
"""Our name of a number of the noise schedule -> theirs."""
OF_THE_SAMPLER = (
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"),
    *("shift_terminal", "stochastic_sampling", "scale_factors", "thresholding"),
)
"""Settings that move a sampler's levels or steps, and leave the network as it is."""


class Schedule(NamedTuple):
    """The description of a preconditioning, what of it was assumed, and which settings were ignored."""

    family: dict[str, Any]
    assumed: Mapping[str, Any] = MappingProxyType({})
    ignored: tuple[str, ...] = ()


def read_scheduler(config: Mapping[str, Any], tokens: int) -> Schedule:
    """Return what a scheduler's config says; without one, DDPM's linear schedule is assumed.

    `tokens` are the places in which a transformer sees the image, on which some flows' shift depends.
    """
    prediction, assumed = config.get("prediction_type"), {}
    if config.get("_class_name") == CONSISTENCY:
        numbers = {key: config[key] for key in ("sigma_data", "sigma_min", "sigma_max") if key in config}
        family = {"kind": "boundary", "time_scale": 250.0, **numbers}
    elif prediction == "trigflow":
        family = read_trigflow(config)
    elif prediction == "flow_prediction" or "shift" in config or config.get("use_flow_sigmas"):
        family, assumed = read_flow(config, tokens)
    elif config and BETAS.isdisjoint(config):
        name = str(config.get("_class_name"))[:60]
        raise ValueError(f"its scheduler {name} has neither the betas of a discrete schedule nor the shift of a flow")
    else:
        family, assumed = read_discrete(config), {} if config else {"scheduler": "DDPMScheduler"}
    return Schedule(family, assumed, tuple(key for key in OF_THE_SAMPLER if config.get(key)))


def read_discrete(config: Mapping[str, Any]) -> dict[str, Any]:
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        known = ", ".join((*PREDICTIONS, "flow_prediction"))
        raise ValueError(f"its network predicts {str(prediction)[:60]!r}, and d2o knows {known}")
    if config.get("timestep_type", "discrete") != "discrete":
        raise ValueError("its network does not know the times of a discrete schedule (timestep_type)")
    if (betas := config.get("trained_betas")) is not None:
        schedule = {"betas": betas, "steps": len(betas)}
    else:
        schedule = {ours: config[theirs] for ours, theirs in SCHEDULE.items() if theirs in config}
    if config.get("rescale_betas_zero_snr"):
        schedule |= {"zero_snr": True, "sigma_max": PURE_NOISE}
    return {"kind": PREDICTIONS[prediction], **schedule}


def read_trigflow(config: Mapping[str, Any]) -> dict[str, Any]:
    if (deviation := config.get("sigma_data", 0.5)) != 1:
        raise ValueError(f"its noise has the deviation sigma_data = {str(deviation)[:20]}; d2o reads TrigFlow's of 1")
    return {"kind": "flow", "path": "trigonometric", "angular": True}


@dataclass(frozen=True, config=RECORD)
class FlowSettings:
    """The numbers of flows' schedulers, with their defaults."""

    num_train_timesteps: Annotated[Whole, Field(ge=1, lt=1e9)] = 1000
    shift: Number = 1.0
    flow_shift: Number = 1.0
    use_dynamic_shifting: StrictBool = False
    base_shift: Real = 0.5
    max_shift: Real = 1.15
    base_image_seq_len: Annotated[Whole, Field(ge=0, lt=1e9)] = 256
    max_image_seq_len: Annotated[Whole, Field(ge=0, lt=1e9)] = 4096
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    invert_sigmas: StrictBool = False


def read_flow(config: Mapping[str, Any], tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the flow that is told `num_train_timesteps` times its time, and what was assumed of its shift.

    Schedulers with `use_flow_sigmas` end a step before the image; those without begin their last one at the time
    1 / num_train_timesteps, which a constant shift moves twice.
    """
    prediction = config.get("prediction_type", "flow_prediction")
    if prediction != "flow_prediction":
        raise ValueError(f"its network predicts {str(prediction)[:60]!r} on a flow's path; d2o reads flow_prediction")
    names = {field.name for field in fields(FlowSettings)}
    given = {key: value for key, value in config.items() if key in names and value is not None}
    settings = validate(FlowSettings, given, "its scheduler")
    static = settings.shift * settings.flow_shift
    family = {"kind": "flow", "time_scale": float(settings.num_train_timesteps), "shift": static}
    if settings.use_dynamic_shifting:
        family["shift"], static = compute_shift(settings, tokens), 1.0
    if "use_flow_sigmas" not in config and settings.num_train_timesteps > 1:
        family["last_time"] = static / (settings.num_train_timesteps + static - 1)
    if settings.invert_sigmas:
        family["towards"] = "image"
    return family, {"tokens": tokens} if settings.use_dynamic_shifting else {}


def compute_shift(settings: FlowSettings, tokens: int) -> float:
    """Return the shift of images of so many tokens: mu, a line through two lengths, or its exponential."""
    start, end = settings.base_image_seq_len, settings.max_image_seq_len
    try:
        slope = (settings.max_shift - settings.base_shift) / (end - start)
        mu = settings.base_shift + slope * (tokens - start)
        return math.exp(mu) if settings.time_shift_type == "exponential" else mu
    except ArithmeticError as error:
        raise ValueError(f"its scheduler's shift cannot be computed for images of {tokens} tokens") from error


def find_clip(config: Mapping[str, Any]) -> Any:
    """Return the bound to which a scheduler clips each estimate of the image, or None."""
    name = str(config.get("_class_name"))
    if config.get("clip_sample", name.startswith(("DDPM", "DDIM"))) is True:
        return config.get("clip_sample_range", 1.0)
    return 1.0 if config.get("clip_denoised", name == CONSISTENCY) is True else None
