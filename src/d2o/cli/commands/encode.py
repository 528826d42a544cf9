"""Encode images and captions once for a latent model, so that training needs neither autoencoder nor text encoders.

examples:
  d2o encode stable-diffusion-v1-5 --data photos --resolution 512 --resize center-crop --out encoded
  d2o encode DiT-XL-2-256x256.pt --codec vae --data imagenet --resolution 256 --resize center-crop --out encoded
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from d2o.checkpoints.inspection import inspect
from d2o.cli.options import (
    DataOptions,
    DeviceOptions,
    Model,
    StateDictOptions,
    check_inputs,
    parse,
    repeat,
    tell,
    write_command,
)
from d2o.cli.progress import counted, say
from d2o.data.encoding import encode
from d2o.encoders.codec import attach
from d2o.files import check_folder
from d2o.planning.table import follow, tune
from d2o.training.networks import check_fit


@dataclass(frozen=True, kw_only=True)
class Encode(DataOptions, DeviceOptions, StateDictOptions):
    """The options of `d2o encode`."""

    model: Model
    """The latent model: the folder of its pipeline, or a checkpoint with --codec."""
    out: str
    """Folder to write or continue, to use as `--data` of d2o finetune."""
    codec: str | None = None
    """Folder of the model's autoencoder, if the model does not name one."""
    batch: Annotated[int, tyro.conf.arg(aliases=["--batch-size"])] = 16
    """Images at once."""
    precision: Literal["half", "float32"] = "half"
    """Precision on disk: half is float16 for latents and bfloat16 for text embeddings."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o encode`."""
    options = parse(Encode, "encode", arguments, __doc__)
    if options.batch < 1:
        raise ValueError(f"--batch {options.batch} is not possible: at least one image is encoded at once.")
    device = options.find_device()
    check_folder(options.out)
    check_inputs(options.model, data=options.data, codec=options.codec)
    model = inspect(options.model, **options.load_options).denoiser  # its weights are not needed
    model = model if options.codec is None else attach(model, options.codec)
    images = options.open(model)
    images = images.for_model(model.num_classes, model.class_names, text=True)
    check_fit(model, images)
    how = {"batch_size": options.batch, "precision": options.precision, "device": device}
    about = encode(model, images, options.out, **how, counted=counted)
    shape = "x".join(map(str, about.latent_shape))
    record = {"path": options.out, "images": about.images, "latents": list(about.latent_shape), "shards": about.shards}
    told = f"; captions for {about.encoders.network}" if about.encoders else ""
    tell(
        record,
        f"{options.out}: {about.images:,} images as latents of {shape}, {about.shards} shards{told}",
        options.json,
    )
    given = {"from": options.model, "codec": options.codec, "data": options.out}
    given |= repeat(options, StateDictOptions, DeviceOptions)
    given |= {**tune(model, follow("pretrain")).options, "out": "runs/one-step"}
    say(f"Next: {write_command('finetune', given)}")
