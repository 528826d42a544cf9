"""Store the statistics of a data set in a feature space: `d2o evaluate` accepts the file instead of the images.

examples:
  d2o statistics images.zip reference.npz --features inception
  d2o statistics digits digits.npz --images 1000
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro

from d2o.cli.options import DataOptions, FeatureOptions, parse, tell
from d2o.cli.progress import counted
from d2o.features.embedding import embedding, find_space
from d2o.files import check_file
from d2o.metrics import statistics
from d2o.metrics.distances import SMALLEST
from d2o.metrics.sample import Stream
from d2o.metrics.sources import open_source


@dataclass(frozen=True, kw_only=True)
class Statistics(DataOptions, FeatureOptions):
    """The options of `d2o statistics`."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """Images: a folder or zip, an .npz, .parquet or .tar, or the built-in `digits`, `shapes`, `emoji`."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT.npz")]
    """The file to write."""
    features: str = "lite2"
    """Feature space: lite2 (EfficientNet-lite2 at 64 px, no download), inception (real FID), clip, dinov2, pixels."""
    images: Annotated[int | None, tyro.conf.arg(aliases=["--count"])] = None
    """Number of images, the same that `d2o evaluate --reference-images` chooses; all by default."""
    moments: bool = False
    """Store only mean and covariance, not the features: a small file, good for the Frechet distance only."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o statistics`."""
    options = parse(Statistics, "statistics", arguments, __doc__)
    out = check_file(options.out)
    if out.suffix != ".npz":
        raise ValueError(f"The name of {out} must end in .npz: statistics are stored as numpy arrays.")
    if options.images is not None and options.images < SMALLEST:
        raise ValueError(f"--images {options.images} are too few: an evaluation needs at least {SMALLEST}.")
    device = options.find_device()
    find_space(options.features, options.weights)
    images = options.open()
    stream = open_source(images, images=options.images or len(images), batch_size=options.batch)
    assert isinstance(stream, Stream)
    network = embedding(options.features, options.weights).to(device)
    batches = (network(batch).cpu().numpy() for batch in counted(stream.batches, stream.count, stream.name))
    if options.moments:
        found = statistics.accumulate(batches, network.name)
    else:
        found = statistics.features_of(np.concatenate(list(batches)), network.name)
    statistics.save(out, found)
    record = {"path": str(out), "space": found.space, "images": found.count, "dimensions": found.dim}
    tell(record, f"{out}: statistics of {found.count:,} images in {found.space}, {found.dim:,} features", options.json)
