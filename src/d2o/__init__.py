"""d2o: from a pre-trained diffusion model to a one-step generator (arXiv 2506.09376).

Four sentences: a denoiser is D(x, sigma, label) -> x0; a sampler walks a list of sigmas, and a one-step generator is
the same walk with one interval; an objective says what a denoiser should learn; a recipe names the objectives.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .checkpoints import load, save
    from .diffusion.denoiser import Denoiser
    from .diffusion.sampling import generate, sample
    from .metrics.evaluation import evaluate
    from .pixels.datasets import open_images as images
    from .training import recipes
    from .training.loop import train
    from .training.networks import networks
    from .training.networks import new_denoiser as untrained
    from .training.recipe import Recipe

PUBLIC = {  # name -> module, and the name in it; imported at first use, so that `import d2o` is fast
    "Denoiser": ("diffusion.denoiser", "Denoiser"),
    "Recipe": ("training.recipe", "Recipe"),
    "evaluate": ("metrics.evaluation", "evaluate"),
    "generate": ("diffusion.sampling", "generate"),
    "images": ("pixels.datasets", "open_images"),
    "load": ("checkpoints", "load"),
    "networks": ("training.networks", "networks"),
    "recipes": ("training.recipes", None),
    "sample": ("diffusion.sampling", "sample"),
    "save": ("checkpoints", "save"),
    "train": ("training.loop", "train"),
    "untrained": ("training.networks", "new_denoiser"),
}


FOLDERS = {
    *("backbones", "diffusion", "features", "pixels"),
    *("checkpoints", "discriminators", "objectives", "metrics", "training", "analysis"),
}


def __getattr__(name: str) -> Any:
    if name in FOLDERS:
        return import_module(f"{__name__}.{name}")
    if name not in PUBLIC:
        raise AttributeError(f"module 'd2o' has no attribute {name!r}")
    module, attribute = PUBLIC[name]
    found = import_module(f"{__name__}.{module}")
    value = globals()[name] = found if attribute is None else getattr(found, attribute)
    return value


def __dir__() -> list[str]:
    return [*globals(), *PUBLIC]


__all__ = [
    "Denoiser",
    "Recipe",
    "evaluate",
    "generate",
    "images",
    "load",
    "networks",
    "recipes",
    "sample",
    "save",
    "train",
    "untrained",
]
