"""Convert any checkpoint that d2o reads to one safetensors file that includes its description.

examples:
  d2o convert edm-cifar10-32x32-uncond-ve.pkl teacher.safetensors
  d2o convert d2o-cifar10.pkl student.safetensors --key net
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from d2o.checkpoints import load, save
from d2o.checkpoints.places import locate
from d2o.cli.options import Model, StateDictOptions, check_inputs, parse, tell
from d2o.cli.progress import say
from d2o.files import check_file, sha256_of


@dataclass(frozen=True, kw_only=True)
class Convert(StateDictOptions):
    """The options of `d2o convert`."""

    model: Model
    """A file, a folder, or an address (https://, hf://)."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """The file to write, OUT.safetensors."""
    key: str = "ema"
    """The network in a file with several: ema, net; or the variant of a diffusers folder: fp16, non_ema ..."""
    sha256: str | None = None
    """The hash that the file must have."""
    base: str | None = None
    """The model that it was fine-tuned from, if the file has only the weights that fine-tuning changed."""
    num_heads: int | None = None
    """Attention heads of a DiT state dict with an unpublished width, which does not show them."""
    json: bool = False
    """Print JSON instead of text."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o convert`."""
    options = parse(Convert, "convert", arguments, __doc__)
    if not options.out.endswith(".safetensors"):
        raise ValueError(f"The name {options.out} must end in .safetensors: that is what convert writes.")
    check_file(options.out)
    check_inputs(options.base)
    path = locate(options.model, "model", sha256=options.sha256).path
    sha256 = None if path.is_dir() else sha256_of(path)
    given = {name: getattr(options, name) for name in ("key", "base", "num_heads")}
    denoiser = load(path, sha256=sha256, **given, **options.load_options)
    save(options.out, denoiser)
    parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    if options.json:
        tell({"path": options.out, "parameters": parameters, "provenance": denoiser.provenance}, "", as_json=True)
    say(f"{options.out}: {parameters:,} parameters from {options.model}")
