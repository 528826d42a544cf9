"""What an export may be asked for besides its form."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """`dtype` is how weights are stored; `codec` the folder of a latent model's autoencoder, for diffusers.

    For the web, `runtime` is the npm package onnxruntime-web (.tgz or folder), and `title` the page's heading.
    """

    dtype: str = "float32"
    codec: str | None = None
    runtime: str | None = None
    title: str | None = None
