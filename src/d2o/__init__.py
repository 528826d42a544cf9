"""d2o: from a pre-trained diffusion model to a one-step generator (arXiv 2506.09376).

Four sentences: a denoiser is D(x, sigma, condition) -> x0; a sampler walks a list of sigmas, and a one-step generator
is the same walk with one interval; an objective says what a denoiser should learn; a recipe names the objectives.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .checkpoints import load, save
    from .data.datasets import open_images as images
    from .diffusion.denoiser import Denoiser
    from .diffusion.sampling import generate, sample
    from .metrics.evaluation import evaluate
    from .training import recipes
    from .training.fit import finetune, pretrain
    from .training.loop import train
    from .training.networks import networks
    from .training.networks import new_denoiser as untrained
    from .training.recipe import Recipe
    from .training.run import Habits

PUBLIC = {  # name -> where it stands; imported at first use, so that `import d2o` is fast
    "Denoiser": "diffusion.denoiser.Denoiser",
    "Habits": "training.run.Habits",
    "Recipe": "training.recipe.Recipe",
    "evaluate": "metrics.evaluation.evaluate",
    "finetune": "training.fit.finetune",
    "generate": "diffusion.sampling.generate",
    "images": "data.datasets.open_images",
    "load": "checkpoints.load",
    "networks": "training.networks.networks",
    "pretrain": "training.fit.pretrain",
    "sample": "diffusion.sampling.sample",
    "save": "checkpoints.save",
    "train": "training.loop.train",
    "untrained": "training.networks.new_denoiser",
}
MODULES = {folder: folder for folder in ("analysis", "backbones", "checkpoints", "data", "diffusion", "discriminators")}
MODULES |= {folder: folder for folder in ("export", "features", "metrics", "objectives", "training")}
MODULES["recipes"] = "training.recipes"
__all__ = [*PUBLIC, "recipes"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return import_module(f"d2o.{MODULES[name]}")
    if name not in PUBLIC:
        raise AttributeError(f"module 'd2o' has no attribute {name!r}")
    module, _, attribute = PUBLIC[name].rpartition(".")
    value = globals()[name] = getattr(import_module(f"d2o.{module}"), attribute)
    return value


def __dir__() -> list[str]:
    return [*globals(), *PUBLIC, *MODULES]
