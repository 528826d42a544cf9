"""Measure how far images or models are from each other. B is the reference, usually real images.

examples:
  d2o evaluate runs/one-step digits
  d2o evaluate runs/teacher images.zip --steps 18 --features inception --images 50000 --json
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

import d2o
from d2o.metrics.report import report

from .arguments import parse


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """The options of `d2o evaluate`."""

    a: tyro.conf.Positional[str]
    """A checkpoint, run directory, image folder, zip, .npz, .parquet, stored statistics, or `digits`."""
    b: tyro.conf.Positional[str]
    """The reference: any of these."""
    features: str | None = None
    """Feature space: lite2 (EfficientNet-lite2 at 64 px, no download), inception (real FID), clip, dinov2, pixels."""
    weights: str = "auto"
    """File of the feature network's weights, where they are not installed."""
    images: int = 1000
    """Images on each side."""
    steps: int = 1
    """Sampling steps of A, if it is a model (18: EDM's)."""
    reference_steps: int | None = None
    """Sampling steps of B, if it is a model."""
    batch: int = 64
    """Images at once; it does not change the result."""
    device: str = "cpu"
    """cpu, cuda, mps."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o evaluate`."""
    options = parse(Evaluate, "evaluate", arguments, __doc__)
    evaluation = d2o.evaluate(
        options.a,
        options.b,
        features=options.features,
        images=options.images,
        steps=options.steps,
        reference_steps=options.reference_steps,
        batch_size=options.batch,
        weights=options.weights,
        device=options.device,
    )
    if options.json:
        print(json.dumps(evaluation.as_dict(), indent=2))
        return
    print(report([evaluation]))
