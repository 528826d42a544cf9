"""Make images for others over HTTP: one endpoint, documented at its own address.

examples:
  d2o serve runs/one-step
  d2o serve runs/one-step --port 9000 --batch 32 --max-seeds 16
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from d2o.checkpoints.inspection import warn_about_one_step
from d2o.cli.options import OWN_IMAGES, Model, parse
from d2o.cli.progress import say


@dataclass(frozen=True, kw_only=True)
class Serve:
    """The options of `d2o serve`."""

    model: Model
    """A checkpoint or a run directory."""
    host: str = "127.0.0.1"
    """The address to listen on; by default this machine alone can reach it."""
    allow_host: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Another name that requests may give this server, as often as wanted; a proxy's, for example."""
    port: int = 8000
    """The port to listen on; 0: any free one."""
    steps: int = 1
    """Intervals of the sampler: 1 for one-step generators, 18 or more for diffusion models."""
    batch: int = 16
    """Images that are made together, of whichever requests."""
    max_seeds: int = 64
    """Images of one request."""
    max_queue: int = 1024
    """Images that wait, of all requests together."""
    max_body: int = 65_536
    """Bytes of a request's body."""
    timeout: float = 60.0
    """Seconds from a request to its images; and for those in progress when the server stops."""
    codec: str | None = None
    """Folder of the autoencoder (AutoencoderKL) that decodes a latent model's images."""
    device: str = "cpu"
    """cpu, cuda, mps."""

    def check(self) -> None:
        """Raise a ValueError for numbers that no server can have."""
        for name in ("steps", "batch", "max_seeds", "max_queue", "max_body", "timeout"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"--{name.replace('_', '-')} is {value}: it must be above 0.")


def main(arguments: Sequence[str]) -> None:
    """Run `d2o serve`."""
    options = parse(Serve, "serve", arguments, __doc__)
    options.check()
    try:
        from d2o.server.application import application
        from d2o.server.models import open_model
        from d2o.server.query import Limits
        from d2o.server.server import serve
    except ModuleNotFoundError as error:
        raise ValueError(f"Serving needs {error.name}: pip install -e '.[serve]' in d2o's folder.") from error
    denoiser = open_model(options.model, options.device, options.codec)
    if options.steps == 1 and (sentence := warn_about_one_step(denoiser, OWN_IMAGES)):
        say(sentence)
    made = application(
        denoiser,
        Path(options.model).name or "model",  # where it lies is nobody else's business
        steps=options.steps,
        batch=options.batch,
        limits=Limits(options.max_seeds, options.max_queue, options.max_body, options.timeout),
        host=options.host,
        names=options.allow_host,
    )

    def ready(address: str) -> None:
        say(f"Serving {options.model} at {address} (Ctrl-C stops)")

    serve(made, options.host, (options.port,), ready=ready, grace=options.timeout)
    say("Stopped.")
