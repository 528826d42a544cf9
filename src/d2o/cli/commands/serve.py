"""Make images for others over HTTP: one endpoint, documented at its own address.

examples:
  d2o serve runs/one-step
  d2o serve runs/one-step --port 9000 --batch 32 --max-seeds 16
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from d2o.checkpoints.inspection import warn_about_one_step
from d2o.cli.options import OWN_IMAGES, Model, parse
from d2o.cli.progress import say
from d2o.server.limits import Limits

NEEDS = "The server needs {}: pip install -e '.[serve]' in d2o's folder."


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where a server listens, and how it opens models."""

    host: str = "127.0.0.1"
    """The address to listen at, by default for this machine alone; 0.0.0.0 lets others on your network in."""
    allow_host: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Another name that requests may give this server, as often as wanted; a proxy's, for example."""
    codec: str | None = None
    """Folder of the autoencoder (AutoencoderKL) that decodes a latent model's images."""
    device: str = "cpu"
    """cpu, cuda, mps."""


@dataclass(frozen=True, kw_only=True)
class Serve(Server):
    """The options of `d2o serve`."""

    model: Model
    """A checkpoint or a run directory."""
    port: int = 8000
    """The port to listen on; 0: any free one."""
    steps: int = 1
    """Intervals of the sampler: 1 for one-step generators, 18 or more for diffusion models."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("--steps must be above 0.")


def main(arguments: Sequence[str]) -> None:
    """Run `d2o serve`."""
    options = parse(Serve, "serve", arguments, __doc__)
    try:
        from d2o.server.application import application
        from d2o.server.models import open_model
        from d2o.server.server import serve
    except ModuleNotFoundError as error:
        raise ValueError(NEEDS.format(error.name)) from error
    denoiser = open_model(options.model, options.device, options.codec)
    if options.steps == 1 and (sentence := warn_about_one_step(denoiser, OWN_IMAGES)):
        say(sentence)
    name = Path(options.model).name or "model"  # where it lies is nobody else's business
    names = {"host": options.host, "names": options.allow_host}
    made = application(denoiser, name, steps=options.steps, limits=options.limits, **names)

    def ready(address: str) -> None:
        say(f"Serving {options.model} at {address} (Ctrl-C stops)")

    serve(made, options.host, (options.port,), ready=ready, grace=options.limits.timeout)
    say("Stopped.")
