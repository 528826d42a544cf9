"""The page's server: this machine only, nothing outside it is asked, and no file of it is served."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .doors import Doors
from .models import Models

MEGABYTE = 2**20
FOLDER = "GRADIO_TEMP_DIR"
"""The name under which gradio finds its folder for uploads."""
LOCAL = ("127.0.0.1", "localhost", "::1")


@contextmanager
def serving(
    models: Models,
    runs: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    upload_limit: float = 512,
    browser: bool = False,
) -> Iterator[str]:
    """Serve the page inside the block, and give its address; `upload_limit` is in megabytes.

    Without a port it is the first free one from 7860 on. Raises ValueError for a port that is taken and for folders
    that are not there.
    """
    if runs is not None and not runs.is_dir():
        raise ValueError(f"There is no folder {runs}: name the one that your run directories are in with --runs.")
    if not upload_limit > 0:
        raise ValueError(f"--upload-limit is a number of megabytes above 0, not {upload_limit:g}.")
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"--port is a number from 1 to 65535, not {port}.")
    with private_folder(), served(models, runs, host, port, upload_limit, browser) as address:
        yield address


@contextmanager
def private_folder() -> Iterator[None]:
    """Give gradio a folder for uploads that only its owner can read, for as long as the block lasts."""
    folder, before = tempfile.mkdtemp(prefix="d2o-app-"), os.environ.get(FOLDER)
    os.environ[FOLDER] = folder
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        del os.environ[FOLDER]
        if before is not None:
            os.environ[FOLDER] = before


@contextmanager
def served(
    models: Models, runs: Path | None, host: str, port: int | None, upload_limit: float, browser: bool
) -> Iterator[str]:
    """Start the server and give its address; stop it at the end of the block."""
    keep_quiet()
    try:
        from starlette.middleware import Middleware

        from .page import page, style, theme
    except ImportError as error:
        raise ValueError(f"The page needs gradio ({error}): pip install -e '.[app]' in d2o's folder.") from error
    refuse_addresses()
    limit = int(upload_limit * MEGABYTE)
    blocks = page(models, runs).queue(max_size=64, default_concurrency_limit=2)
    try:
        doors = Middleware(Doors, upload_limit=limit, local=host in LOCAL, folder=os.environ[FOLDER])
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            show_error=False,
            max_file_size=limit,
            allowed_paths=[],
            enable_monitoring=False,
            run_history=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            app_kwargs={"middleware": [doors], "docs_url": None, "redoc_url": None, "openapi_url": None},
            theme=theme(),
            css=style(),
        )
        yield address
    except OSError as error:
        if "empty port" not in str(error):
            raise
        raise ValueError(f"Port {port or 'range 7860-7959'} is taken: choose another with --port.") from error
    finally:
        blocks.close(verbose=False)


def keep_quiet() -> None:
    """Set what gradio reads from the environment, before it is imported: that it keeps to itself."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("NO_PROXY", "no_proxy"):  # gradio asks its own server whether it has started
        os.environ[name] = ",".join(dict.fromkeys([*filter(None, os.environ.get(name, "").split(",")), *LOCAL]))


def refuse_addresses() -> None:
    """Keep gradio from fetching an address that someone sends in the place of an uploaded file."""
    from gradio import processing_utils

    async def refuse(url: str) -> None:
        raise ValueError(f"The page fetches nothing: {url[:100]} was sent in the place of a file.")

    processing_utils.async_ssrf_protected_get = refuse  # type: ignore[assignment]
