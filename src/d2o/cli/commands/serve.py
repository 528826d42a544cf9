"""Make images for others over HTTP: one endpoint, documented at its own address.

examples:
  d2o serve runs/one-step
  d2o serve runs/one-step --port 9000 --batch 32 --max-seeds 16
"""

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from d2o.checkpoints.inspection import warn_about_one_step
from d2o.cli.options import OWN_IMAGES, DeviceOptions, Model, ModelOptions, parse
from d2o.cli.progress import say
from d2o.server.limits import Limits

NEEDS = "The server needs {}: pip install -e '.[serve]' in d2o's folder."
TOKEN = "D2O_TOKEN"
"""The variable with the token of those who do not want to show it in the list of processes."""


@dataclass(frozen=True, kw_only=True)
class Server(DeviceOptions, ModelOptions):
    """Where a server listens, and how it opens models."""

    host: str = "127.0.0.1"
    """The address to listen at, by default for this machine alone; 0.0.0.0 lets others on your network in."""
    allow_host: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Another name that requests may give this server, as often as wanted; a proxy's, for example."""
    token: str | None = None
    """Answer only those who send `Authorization: Bearer TOKEN`; D2O_TOKEN in the environment says it unseen."""
    proxy: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Address or network of a proxy that is believed who its clients are (X-Forwarded-For); as often as wanted."""
    access_log: bool = False
    """Print a line for every answer."""
    codec: str | None = None
    """Folder of the autoencoder (of diffusers) that decodes a latent model's images."""

    def __post_init__(self) -> None:
        for proxy in self.proxy:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError(f"--proxy {proxy!r}: name an address or a network, such as 127.0.0.1.") from None
        token = self.access()["token"]
        if self.token == "" or not re.fullmatch(r"[\w.~+/=-]*", token or "", re.ASCII):
            raise ValueError(f"--token (or {TOKEN}) must have letters, digits and -._~+/= only, such as a hex number.")

    def access(self) -> dict[str, Any]:
        """Return what the application must know of who may ask."""
        token = self.token or os.environ.get(TOKEN) or None
        return {"host": self.host, "names": self.allow_host, "token": token, "access_log": self.access_log}


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
        super().__post_init__()
        if self.steps < 1:
            raise ValueError("--steps must be above 0.")


def main(arguments: Sequence[str]) -> None:
    """Run `d2o serve`."""
    options = parse(Serve, "serve", arguments, __doc__)
    try:
        from d2o.server.application import application
        from d2o.server.models import open_model
        from d2o.server.server import make_server, serve
    except ModuleNotFoundError as error:
        raise ValueError(NEEDS.format(error.name)) from error
    denoiser = open_model(options.model, device=options.find_device(), codec=options.codec, **options.load_options)
    denoiser = options.adapt(denoiser)
    if options.steps == 1 and (sentence := warn_about_one_step(denoiser, OWN_IMAGES)):
        say(sentence)
    name = Path(options.model).name or "model"  # where it lies is nobody else's business
    made = application(denoiser, name, steps=options.steps, limits=options.limits, **options.access())
    server = make_server(made, options.limits, options.limits.timeout, options.proxy)

    def ready(address: str) -> None:
        say(f"Serving {options.model} at {address} (Ctrl-C stops)")

    serve(server, options.host, (options.port,), ready=ready)
    say("Stopped.")
