"""One-step generators as a web page: a folder for any static server, in which the browser makes the images itself."""

import json
from pathlib import Path

import d2o
from d2o.diffusion.condition import Words
from d2o.diffusion.denoiser import Denoiser
from d2o.encoders.codec import makes_latents
from d2o.errors import CheckpointError
from d2o.pages.play import describe, describe_prompts, play_files

from .one_step import Options
from .programs import write_onnx
from .runtime import runtime_files


def write(denoiser: Denoiser, path: Path, options: Options) -> tuple[float, tuple[str, ...]]:
    """Write page, ONNX model and runtime into a folder; return how far the model's images are, and notes."""
    if makes_latents(denoiser):
        raise CheckpointError("A web page shows models of grey or RGB pixels, not latent ones: use --to onnx.")
    version, runtime = runtime_files(options.runtime)
    path.mkdir()
    reader = denoiser.reader
    words = {"words": reader.words, "length": reader.length} if isinstance(reader, Words) else {}
    error, _ = write_onnx(denoiser, path / "model.onnx", options)
    facts = {
        "title": options.title or "One call an image",
        **describe(denoiser),
        **describe_prompts(denoiser),
        **words,
        "sigma": denoiser.sigma_max,
        "d2o": d2o.__version__,
        "onnxruntime-web": version,
    }
    (path / "model.json").write_text(json.dumps(facts, indent=2) + "\n")
    (path / "runtime").mkdir()
    for name, content in play_files("browser").items():
        (path / name).write_bytes(content)
    for name, content in runtime.items():
        (path / "runtime" / name).write_bytes(content)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return error, (
        f"{size / 1e6:.1f} MB; any static server serves it, for example `python -m http.server` within it",
        f"onnxruntime-web {version} (MIT licence) stands in its runtime folder",
    )
