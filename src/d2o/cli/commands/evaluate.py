"""Measure distances between images or models, and their diversity. B is the reference, usually real images.

examples:
  d2o evaluate runs/one-step digits
  d2o evaluate runs/teacher images.zip --steps 18 --features inception --images 50000 --json
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

import d2o
from d2o.checkpoints.native import read_header
from d2o.checkpoints.places import REFERENCE, SAVED, Place, find_saved, locate
from d2o.cli.options import FeatureOptions, ModelOptions, Preparation, check_inputs, parse
from d2o.cli.progress import counted, say
from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.features.embedding import find_space
from d2o.metrics.report import report


@dataclass(frozen=True, kw_only=True)
class Evaluate(Preparation, FeatureOptions, ModelOptions):
    """The options of `d2o evaluate`."""

    a: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="A")]
    """A checkpoint, run directory, image folder, zip, .npz, .parquet, .tar, stored statistics, or `digits`."""
    b: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="B")]
    """The reference: any of these."""
    features: str | None = None
    """Feature space: lite2 (EfficientNet-lite2 at 64 px, no download), inception (real FID), clip, dinov2, pixels."""
    images: Annotated[int, tyro.conf.arg(aliases=["--count"])] = 1000
    """Number of images of A."""
    reference_images: int | None = None
    """Number of images of B, if it is a data set; all by default."""
    steps: int = 1
    """Sampling steps of A, if it is a model (18: EDM's)."""
    reference_steps: int | None = None
    """Sampling steps of B, if it is a model."""
    guidance: float = 1.0
    """Scale of classifier-free guidance for A, if it is a model with classes; 1: none."""
    codec: str | None = None
    """Folder of a latent model's autoencoder (diffusers)."""
    base: str | None = None
    """The model that A was fine-tuned from, if its file has only the weights that fine-tuning changed."""

    def open(self, place: Place, base: str | None = None, **options: Any) -> str | Images | Denoiser:
        """Return data sets prepared as asked, models with their codec and base, and everything else by its name."""
        if place.unfinished and (saved := find_saved(place.path)) is not None:
            seen = read_header(saved.with_name(SAVED[1]))["images"]
            say(f"{place.name} is an unfinished run: evaluating the model of its checkpoint at {seen:,} images.")
        if place.kind == "model" and any((self.codec, base, self.asked)):
            return d2o.load(place.path, device=self.find_device(), base=base, codec=self.codec, **options)
        return self.prepare(place.name) if place.kind == "data" else place.name


def main(arguments: Sequence[str]) -> None:
    """Run `d2o evaluate`."""
    options = parse(Evaluate, "evaluate", arguments, __doc__)
    device = options.find_device()
    reference, source = locate(options.b, *REFERENCE), locate(options.a, *(("model",) if options.base else ()))
    check_inputs(options.base, codec=options.codec)
    find_space(options.features or "lite2", options.weights)
    a, b = options.open(source, options.base, **options.load_options), options.open(reference)
    if isinstance(a, Denoiser):
        a = options.adapt(a, b if isinstance(b, Images) else None)
    elif options.asked:
        raise ValueError(f"--{next(iter(options.asked))} is for models, but {options.a} is not one: leave it out.")
    names = ("features", "images", "reference_images", "steps", "reference_steps", "guidance", "weights")
    settings = {name: getattr(options, name) for name in names}
    evaluation = d2o.evaluate(a, b, batch_size=options.batch, device=device, counted=counted, **settings)
    print(json.dumps(evaluation.as_dict(), indent=2) if options.json else report([evaluation]))
