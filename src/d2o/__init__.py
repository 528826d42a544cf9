"""d2o: from a pre-trained diffusion model to a one-step generator (arXiv 2506.09376).

Four sentences: a denoiser is D(x, sigma, label) -> x0; a sampler walks a list of sigmas, and a one-step generator is
the same walk with one interval; an objective says what a denoiser should learn; a recipe names the objectives.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from d2o.checkpoints import load, save
    from d2o.data.datasets import open_images as images
    from d2o.diffusion.denoiser import Denoiser
    from d2o.diffusion.sampling import generate, sample
    from d2o.metrics.evaluation import evaluate
    from d2o.training import recipes
    from d2o.training.loop import train
    from d2o.training.networks import networks
    from d2o.training.networks import new_denoiser as untrained
    from d2o.training.recipe import Recipe

PUBLIC = {  # name -> module, and the name in it; imported at first use, so that `import d2o` is fast
    "Denoiser": ("diffusion.denoiser", "Denoiser"),
    "Recipe": ("training.recipe", "Recipe"),
    "evaluate": ("metrics.evaluation", "evaluate"),
    "generate": ("diffusion.sampling", "generate"),
    "images": ("data.datasets", "open_images"),
    "load": ("checkpoints", "load"),
    "networks": ("training.networks", "networks"),
    "recipes": ("training.recipes", None),
    "sample": ("diffusion.sampling", "sample"),
    "save": ("checkpoints", "save"),
    "train": ("training.loop", "train"),
    "untrained": ("training.networks", "new_denoiser"),
}


FOLDERS = {
    *("backbones", "diffusion", "features", "data"),
    *("export", "checkpoints", "discriminators", "objectives", "metrics", "training", "analysis"),
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
