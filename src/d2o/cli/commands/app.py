"""Open a page to play with one-step models, beside their teachers, on this machine alone.

examples:
  d2o app
  d2o app runs/one-step --teacher runs/teacher --runs runs
"""

import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from d2o.cli.options import parse
from d2o.cli.progress import say


@dataclass(frozen=True, kw_only=True)
class App:
    """The options of `d2o app`."""

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[MODEL ...]")] = ()
    """Checkpoints, run directories or addresses, besides the models that come with d2o."""
    teacher: str | None = None
    """The diffusion model that is shown beside them."""
    runs: Path | None = None
    """Folder of run directories whose learning curves are shown, live."""
    codec: str | None = None
    """Folder of the autoencoder (AutoencoderKL) that decodes a latent model's images."""
    device: str = "cpu"
    """cpu, cuda, mps."""
    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 lets others on your network in."""
    port: int | None = None
    """The port; by default the first free one from 7860 on."""
    upload_limit: float = 512
    """Megabytes that an uploaded checkpoint may have."""
    browser: bool = False
    """Open the page in a browser at once."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o app`."""
    options = parse(App, "app", arguments, __doc__)
    from d2o.app.models import models
    from d2o.app.server import LOCAL, serving

    offered = models(options.models, options.teacher, options.device, options.codec)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with (
        serving(
            offered,
            options.runs,
            host=options.host,
            port=options.port,
            upload_limit=options.upload_limit,
            browser=options.browser,
        ) as address,
        suppress(KeyboardInterrupt),
    ):
        if options.host not in LOCAL:
            say(f"It listens at {options.host}: whoever reaches this machine can use it.")
        say(f"The page is at {address} (Ctrl-C stops it).")
        while not stop.wait(3600):
            pass
