"""Serve an interactive page with one-step models and their teachers, on this machine only.

examples:
  d2o app
  d2o app runs/one-step --teacher runs/teacher
"""

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

import tyro

from d2o.cli.options import check_inputs, parse
from d2o.cli.progress import say

from .serve import NEEDS, Server

GONE = {
    "--runs": "learning curves are shown by a tracker: use `d2o finetune ... --track tensorboard`",
    "--upload-limit": "nothing is uploaded now: name your model on the command line, as in `d2o app MODEL`",
}
PORTS = range(7860, 7960)


@dataclass(frozen=True, kw_only=True)
class App(Server):
    """The options of `d2o app`."""

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[MODEL ...]")] = ()
    """Checkpoints, run directories or addresses, besides the models that come with d2o."""
    teacher: str | None = None
    """The diffusion model to show beside them."""
    port: int | None = None
    """The port; by default the first free one from 7860 on."""
    browser: bool = False
    """Open the page in a browser at once."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o app`."""
    for option in (word.partition("=")[0].replace("_", "-") for word in arguments):
        if option in GONE:
            raise ValueError(f"{option} no longer exists: {GONE[option]}.")
    options = parse(App, "app", arguments, __doc__)
    try:
        from d2o.server.access import LOOPBACK
        from d2o.server.application import application
        from d2o.server.limits import Limits
        from d2o.server.models import offer_models
        from d2o.server.server import make_server, serve
    except ModuleNotFoundError as error:
        raise ValueError(NEEDS.format(error.name)) from error
    check_inputs(*options.models, options.teacher, codec=options.codec)
    how = {"device": options.find_device(), "codec": options.codec, **options.load_options}
    models = offer_models(options.models, options.teacher, adapt=options.adapt, **how)
    name, denoiser = next(iter(models.denoisers.items()))
    access = options.access()
    server = make_server(application(denoiser, name, page=models, **access), Limits(), proxies=options.proxy, grace=2)
    fragment = f"#token={quote(access['token'])}" if access["token"] else ""  # which browsers keep to themselves

    def ready(address: str) -> None:
        if options.host not in LOOPBACK:
            known = " and has the token" if fragment else ""
            say(f"It listens on {options.host}: anyone who can reach this machine{known} can use it.")
        say(f"The page is at {address}{fragment} (Ctrl-C stops it).")
        if options.browser:
            webbrowser.open(address + fragment)

    serve(server, options.host, PORTS if options.port is None else (options.port,), ready=ready)
