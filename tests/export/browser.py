"""A real browser for tests: it opens a page of a folder together with a script, which hands back what it found."""

import json
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import needs

OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
NOWHERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"  # who asks others gets no answer
CHECK = """<!doctype html><iframe id="page" src="/index.html" width="900" height="700"></iframe>
<script type="module">
const send = (found) => fetch("/found", { method: "POST", body: JSON.stringify(found) });
try { const main = async () => { %s }; send(await main()); } catch (error) { send({ error: String(error) }); }
</script>"""


class Server(SimpleHTTPRequestHandler):
    """Serve the folder and the script, and take what it found."""

    check = ""
    found: dict[str, Any]
    asked: list[str]
    done: threading.Event

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path != "/check.html":
            return super().do_GET()
        content = self.check.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def do_POST(self) -> None:
        self.found.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()
        self.done.set()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def in_browser(folder: Path, script: str, profile: Path, seconds: float = 120) -> tuple[dict[str, Any], list[str]]:
    """Return what the body of an async JavaScript function returns beside the folder's page, and what was asked for."""
    program = needs.chromium()
    own: dict[str, Any] = {"check": CHECK % script, "found": {}, "asked": [], "done": threading.Event()}
    handler = type("Handler", (Server,), own)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/check.html"
        words = [program, *OPTIONS, NOWHERE, f"--user-data-dir={profile}", "--remote-debugging-port=0", address]
        browser = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            finished = own["done"].wait(seconds)
        finally:
            browser.terminate()
            browser.wait(30)
            server.shutdown()
    assert finished, f"the page was not ready within {seconds} s; it asked for {own['asked']}"
    return own["found"], own["asked"]
