"""A real browser without a window, and the servers whose pages it opens; nobody outside this machine answers it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import needs

OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
SECONDS = 60
"""What something on a page may take on a busy machine."""


class Visit(NamedTuple):
    """A page in the browser, where it is from, what it asked for, and what went wrong on it."""

    page: Any
    address: str
    asked: list[str]
    complaints: list[str]


@contextmanager
def browsing() -> Iterator[Callable[..., Visit]]:
    """Give a function that opens an address in headless Chromium, with options of a browser's context."""
    playwright, program = needs.package("playwright.sync_api"), needs.chromium()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=OPTIONS)

        def visit(address: str, **options: Any) -> Visit:
            page = browser.new_page(**{"viewport": {"width": 1100, "height": 1000}, **options})
            found = Visit(page, address, [], [])
            page.set_default_timeout(1000 * SECONDS)
            page.on("request", lambda request: found.asked.append(request.url))
            page.on("pageerror", lambda error: found.complaints.append(str(error)))
            page.on(
                "console",
                lambda message: found.complaints.append(message.text) if message.type == "error" else None,
            )
            page.goto(address)
            page.wait_for_selector("#student-time:not(:empty)")
            return found

        yield visit
        browser.close()


def wait_until(ready: Callable[[], Any]) -> None:
    """Wait for something that a page has no selector for."""
    end = time.monotonic() + SECONDS
    while not ready():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def folder_server(folder: Path) -> Iterator[str]:
    """Serve the files of a folder, as any static server does, and give the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@contextmanager
def application_server(application: Any, **options: Any) -> Iterator[str]:
    """Serve an application in a thread of this process, within limits (`d2o.server.limits`), and give the address."""
    from d2o.server.limits import Limits
    from d2o.server.server import listen, make_server

    with listen("127.0.0.1", (0,)) as listener:
        server = make_server(application, Limits(**options), grace=1)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(SECONDS)
