"""How an export is used: the few lines of code, or the command, that stand on its model card."""

import json
from collections.abc import Iterator
from pathlib import Path

from d2o.diffusion.condition import TextWidth
from d2o.diffusion.denoiser import Denoiser

from .text_to_image import describe_call

D2O = """\
import d2o

model = d2o.load({path}{base})
images = next(d2o.generate(model, seeds=range(4){asked}))"""
LINES = {
    "safetensors": D2O,
    "delta": D2O,
    "onnx": """\
import numpy, onnxruntime

noise = numpy.random.default_rng(0).standard_normal((1, {sizes}), numpy.float32)
(images,) = onnxruntime.InferenceSession({path}).run(None, {{"noise": noise{onnx_label}}})""",
    "torch": """\
import torch

noise = torch.randn(1, {sizes})
images = torch.export.load({path}).module()(noise{torch_label})""",
    "diffusers": """\
from diffusers import {imports}

pipeline = {pipeline}.from_pretrained({path}{vae})
images = pipeline({call}num_inference_steps=1).images""",
    "text-to-image": """\
from diffusers import DiffusionPipeline, {scheduler}, {network}

network = {network}.from_pretrained({path}, subfolder="{place}")
scheduler = {scheduler}.from_pretrained({path}, subfolder="scheduler")
pipeline = DiffusionPipeline.from_pretrained({base}, {place}=network, scheduler=scheduler)
images = pipeline("a red fox in the snow", {call}).images""",
}
"""Form of export -> a program, to be run where the export stands."""
SERVE = "python -m http.server"
TEACHER_STEPS = 18
"""Of models of many steps."""


def describe_usage(denoiser: Denoiser, to: str, path: Path, name: str, base: str | None) -> Iterator[str]:
    """Yield a fenced block: how what was written to `path`, and will be called `name`, makes images."""
    if to == "web":
        yield from ("```", SERVE, "```")
        return
    classes, reader, is_told_text = (
        denoiser.num_classes > 0,
        denoiser.reader,
        isinstance(denoiser.vocabulary, TextWidth),
    )
    asked = ", condition=text" * is_told_text if reader is None else f", condition={literal(reader.examples[0])}"
    asked += "" if denoiser.one_step else f", steps={TEACHER_STEPS}"
    given = {
        "path": literal(name),
        "base": "" if to != "delta" else f", base={literal(base or 'the model that it was fine-tuned from')}",
        "asked": asked,
        "sizes": ", ".join(map(str, denoiser.image_shape)),
        "onnx_label": ', "label": numpy.array([0])' if classes else "",
        "torch_label": ", torch.tensor([0])" if classes else "",
    }
    if to == "diffusers":
        given |= describe_pipeline(path, classes)
    if to == "diffusers" and is_told_text:
        given |= {"base": literal(base or "the pipeline that it was fine-tuned from"), "call": describe_call(denoiser)}
        to = "text-to-image"
    yield from ("```python", *LINES[to].format(**given).splitlines(), "```")
    if is_told_text and reader is None and LINES[to] is D2O:
        yield from (
            "",
            "Here `text` is a `d2o.diffusion.Text` of four captions, as the text encoders of its base give it.",
        )


def describe_pipeline(folder: Path, classes: bool) -> dict[str, str]:
    """Return how the pipeline in a folder is imported, loaded and called."""
    index = json.loads((folder / "model_index.json").read_text())
    kind, parts = index["_class_name"], [part for part in index.values() if isinstance(part, list)]
    is_ours = any(str(library).startswith("d2o.") for library, _ in parts)
    lacks_codec = index.get("vae") == [None, None]
    calls = {"DiTPipeline": "[0], guidance_scale=1.0, ", "ConsistencyModelPipeline": "class_labels=[0], " * classes}
    place = "transformer" if "transformer" in index else "unet"
    return {
        "pipeline": kind,
        "place": place,
        "network": index[place][1],
        "scheduler": index["scheduler"][1],
        "imports": "AutoencoderKL, " * lacks_codec + kind + "\n\nimport d2o.checkpoints.diffusers_model" * is_ours,
        "vae": ', vae=AutoencoderKL.from_pretrained("the folder of its autoencoder")' * lacks_codec,
        "call": calls.get(kind, ""),
    }


def literal(text: str) -> str:
    """Return a text as a string of Python that ends no fence."""
    return ascii(text).replace("`", r"\x60")
