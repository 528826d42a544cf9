"""The page to play with one-step models: the same files from a server and in a folder, but for the engine they ask."""

from importlib import resources
from typing import Any

SCRIPTS = ("page.js", "walk.js", "grid.js", "between.js", "shared.js", "pictures.js", "prompts.js", "text.js")
COMMON = ("index.html", "style.css", *SCRIPTS)
ENGINES = {"server": ("engine-server.js",), "browser": ("engine-browser.js", "noise.js")}
"""Who makes the images: a server, which is asked over HTTP, or onnxruntime-web in the browser."""


def play_files(engine: str) -> dict[str, bytes]:
    """Return the page's files by name, with the engine as engine.js."""
    own = {f"engine-{engine}.js": "engine.js"}
    folder = resources.files(__name__)
    return {own.get(name, name): folder.joinpath(name).read_bytes() for name in (*COMMON, *ENGINES[engine])}


def describe(denoiser: Any) -> dict[str, Any]:
    """Return what the page, whoever makes its images, knows of a denoiser."""
    return {
        "image_shape": denoiser.pixel_shape,
        "num_classes": denoiser.num_classes,
        "class_names": denoiser.classes,
        "parameters": sum(parameter.numel() for parameter in denoiser.parameters()),
    }


def describe_prompts(denoiser: Any) -> dict[str, Any]:
    """Return the prompts that the page suggests, none of a model without words, and whether it can blend two."""
    return {"prompts": denoiser.reader.examples if denoiser.reader else (), "blends": denoiser.blends}
