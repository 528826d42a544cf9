"""Options that several studies of `d2o analyze` have in common, and what they open."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .options import DataOptions, Model, Set, recipe_from, with_codec
from .progress import counted, watch


@dataclass(frozen=True, kw_only=True)
class Output:
    """Options of every study."""

    out: str
    """Directory of the results: JSON, PNG, SVG, and one HTML page."""
    device: str = "cpu"
    """cpu, cuda, mps."""


@dataclass(frozen=True, kw_only=True)
class Walk(Output):
    """Options of the way from noise to images."""

    model: Model
    """The teacher: a checkpoint or a run directory."""
    steps: int = 18
    """Noise levels at which it is watched."""
    sampler: Literal["heun", "euler"] = "heun"
    """How it walks from one to the next."""
    seeds: str = "0-63"
    """Image i depends on its seed only: 0-63 or 1,5,9."""
    batch: int = 64
    """Images at once: the memory that is needed."""


@dataclass(frozen=True, kw_only=True)
class Measured(DataOptions, Output):
    """Options of studies that measure the quality of images."""

    count: int = 500
    """Images of every generator that are measured, and as many real ones."""
    features: str = "lite2"
    """Feature space, as in `d2o evaluate`."""
    weights: str = "auto"
    """File of the feature network's weights, where they are not installed."""
    repetitions: int = 2
    """How often everything is measured, with other seeds: where the error bars come from."""
    batch: int = 64
    """Images at once; it does not change the result."""


@dataclass(frozen=True, kw_only=True)
class Trials(Measured):
    """Options of studies that fine-tune. The same command again continues, and does nothing twice."""

    recipe: str = "digits-d2o"
    """How every trial is fine-tuned: a name (see `d2o recipes`) or a .json or .yaml file."""
    images: int = 2_560
    """Images of fine-tuning, the same for every trial."""
    set: Set = ()
    """Change any other key of the recipe: --set batch_size=32."""


def load(options: Output, model: str) -> Any:
    """Return a model on the device."""
    import d2o

    return with_codec(d2o.load(model, device=options.device), None)


def bench(options: Measured, study: str) -> Any:
    """Return what the measurements of a study have in common."""
    from d2o.analysis.trials import Bench
    from d2o.metrics.distances import SMALLEST

    for name, least in (("repetitions", 1), ("batch", 1), ("count", SMALLEST)):
        value = getattr(options, name)
        if value < least:
            raise ValueError(f"--{name} is at least {least}, not {value}.")
    return Bench(
        Path(options.out) / "trials" / study,
        options.open(),
        count=options.count,
        features=options.features,
        weights=options.weights,
        device=options.device,
        watch=watch,
        counted=counted,
        batch_size=options.batch,
    )


def tuning(options: Trials) -> Any:
    """Return the recipe of fine-tuning."""
    return recipe_from(options.recipe, {"duration": options.images}, options.set)
