"""Serve images over HTTP; the server documents its endpoints at its own address.

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
    """The address to listen on, by default for this machine only; 0.0.0.0 lets in others on your network."""
    allow_host: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Another host name that requests may use for this server, such as a proxy's; may be repeated."""
    token: str | None = None
    """Answer only requests with `Authorization: Bearer TOKEN`; D2O_TOKEN in the environment sets it unseen."""
    proxy: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Address or network of a proxy whose X-Forwarded-For is trusted; may be repeated."""
    access_log: bool = False
    """Print a line for every response."""
    codec: str | None = None
    """Folder of a latent model's autoencoder (diffusers)."""

    def __post_init__(self) -> None:
        for proxy in self.proxy:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError(f"--proxy {proxy!r}: give an address or a network, such as 127.0.0.1.") from None
        token = self.access()["token"]
        if self.token == "" or not re.fullmatch(r"[\w.~+/=-]*", token or "", re.ASCII):
            raise ValueError(f"--token (or {TOKEN}) may have only letters, digits and -._~+/=, such as a hex number.")

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
    """Sampling steps: 1 for one-step generators, 18 or more for diffusion models."""
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
