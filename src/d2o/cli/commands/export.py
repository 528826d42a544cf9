"""Export a one-step generator in a standard format, and compare the export with the model.

examples:
  d2o export runs/one-step --to onnx generator.onnx
  d2o export runs/one-step --to diffusers folder --dtype float16 --license apache-2.0
  d2o export runs/one-step --to delta --base teacher.safetensors what-moved.safetensors
  d2o export runs/one-step --to web page --title "Digits in one call" --teacher runs/teacher
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from d2o.checkpoints import load
from d2o.checkpoints.shipped import TEACHERS
from d2o.cli.options import Model, ModelOptions, check_inputs, parse, tell
from d2o.export import check_output, export
from d2o.export.runtime import runtime_files


@dataclass(frozen=True, kw_only=True)
class Export(ModelOptions):
    """The options of `d2o export`."""

    model: Model
    """A checkpoint, a run directory, or a diffusers folder."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """The file to write (.safetensors, .onnx, .pt2), or the folder (diffusers, web)."""
    to: Literal["safetensors", "delta", "diffusers", "onnx", "torch", "web"]
    """safetensors: with JSON; delta: only what changed since --base; diffusers: a pipeline folder;
    onnx: for onnxruntime; torch: an exported program; web: a page that makes images in the browser."""
    base: str | None = None
    """The model that this one was fine-tuned from, for --to delta."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """How weights are stored; computation is in float32."""
    codec: str | None = None
    """Folder of a latent model's autoencoder (diffusers), for --to diffusers."""
    runtime: str | None = None
    """The npm package onnxruntime-web, .tgz or folder, for --to web; by default downloaded once into D2O_CACHE."""
    title: str | None = None
    """The heading of the page, for --to web."""
    teacher: str | None = None
    """The diffusion model to show beside it, for --to web; models that come with d2o have their own."""
    license: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None
    """The licence on the model card, such as apache-2.0; by default the teacher's, if known."""
    json: bool = False
    """Print JSON instead of text."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o export`."""
    options = parse(Export, "export", arguments, __doc__)
    check_output(options.out, options.to)
    check_inputs(options.model, options.base, options.teacher, codec=options.codec)
    teacher = options.teacher or (TEACHERS.get(options.model) if options.to == "web" else None)
    if options.runtime is not None:
        runtime_files(options.runtime)
    exported = export(
        options.adapt(load(options.model, **options.load_options)),
        options.out,
        options.to,
        dtype=options.dtype,
        codec=options.codec,
        base=options.base,
        runtime=options.runtime,
        title=options.title,
        teacher=None if teacher is None else load(teacher),
        source=options.model,
        license=options.license,
    )
    record = {"path": str(exported.path), "to": options.to, "error": exported.error, "notes": list(exported.notes)}
    record["card"] = str(exported.card)
    sentence = f"{exported.path}: largest difference to the model's images, which span -1 to 1: {exported.error:.1e}"
    tell(record, "\n  ".join([sentence, *exported.notes]), options.json)
