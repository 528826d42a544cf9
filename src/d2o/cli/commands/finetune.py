"""Turn a diffusion model into a one-step generator.

examples:
  d2o finetune --from teacher.safetensors --data images.zip --recipe d2o-f --out runs/one-step
  d2o finetune --from DiT-XL-2-256x256.pt --codec vae --data imagenet --recipe dit-d2o-f --out runs/dit
  torchrun --nproc_per_node 8 -m d2o finetune --from teacher.safetensors --data c10.zip --recipe cifar10-d2o-f --out c10
  torchrun --nproc_per_node 8 -m d2o finetune --from FLUX.1-dev --data encoded --recipe flux-d2o-f --shard --out runs
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

import d2o
from d2o.cli.options import DataOptions, DeviceOptions, ModelOptions, check_inputs, parse, repeat, write_command
from d2o.cli.progress import say
from d2o.cli.training import RunOptions
from d2o.training.fit import finetune


@dataclass(frozen=True, kw_only=True)
class Finetune(DataOptions, RunOptions, ModelOptions):
    """The options of `d2o finetune`."""

    from_: Annotated[str, tyro.conf.arg(name="from", aliases=["--teacher"], metavar="MODEL")]
    """The pre-trained model: a checkpoint or a run directory."""
    base: str | None = None
    """The model that it was fine-tuned from, if the file has only the weights that fine-tuning changed."""
    recipe: str = "d2o-f"
    """A name (see `d2o recipes`) or a .json or .yaml file."""
    codec: str | None = None
    """Folder of a latent model's autoencoder (diffusers), to judge and evaluate its images in pixels."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o finetune`."""
    options = parse(Finetune, "finetune", arguments, __doc__)
    recipe = options.open_recipe(options.recipe)
    options.check_out()
    check_inputs(options.from_, options.base, data=options.data, codec=options.codec)
    teacher = d2o.load(options.from_, base=options.base, codec=options.codec, **options.load_options)
    images = options.open(teacher)
    origin = {"from": options.from_, **options.asked}
    start = [options.adapt(teacher, images)]
    del teacher  # the run holds no more of it than it needs
    result = options.run(finetune, start.pop, images, recipe, origin=origin)
    given = {"seeds": "0-63", "steps": None if result.denoiser.one_step else 18, **repeat(options, DeviceOptions)}
    say(f"Next: {write_command('sample', {**given, 'out': 'grid.png'}, options.out)}")
