"""Files at an address: downloaded once into a cache, which contains complete, verified files only.

hf://OWNER/REPOSITORY/FILE (with @REVISION after the repository's name, else main) is a file on the Hugging Face hub;
HF_TOKEN opens those that are not public. What the hub's own client has fetched is used from its cache. Downloads do
without it: it retries for half a minute where there is no network, and follows redirects to any address.
"""

import hashlib
import os
import re
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from shutil import copyfileobj
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from d2o.errors import CheckpointError, MalformedCheckpointError
from d2o.files import atomic, sha256_of

CACHE_VARIABLE = "D2O_CACHE"
OFFLINE_VARIABLES = ("D2O_OFFLINE", "HF_HUB_OFFLINE")
HUB = "https://huggingface.co"
LOCAL = ("localhost", "127.0.0.1", "::1")
SECONDS = 10
"""How long a server may be silent."""
CHUNK = 1 << 20
BY_HAND = "connect to the network, or download the file by hand and give its path"


def fetch(address: str, sha256: str | None = None) -> Path:
    """Return the file at an https:// or hf:// address, from the cache or by download; `sha256` is its hash.

    http:// is for this machine only. All that can go wrong is a CheckpointError.
    """
    target = resolve(address)
    name = re.sub(r"[^\w.-]", "_", unquote(Path(urlsplit(target).path).name))[-100:] or "checkpoint"
    path = cache_folder() / f"{hashlib.sha256(target.encode()).hexdigest()[:16]}-{name}"

    def is_cached(file: Path) -> bool:
        return file.exists() and (sha256 is None or sha256_of(file) == sha256.lower())

    if found := next(filter(is_cached, (path, *find_in_cache_of_hub(address))), None):
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not is_cached(path):  # another process may have fetched it while we waited
            with atomic(path) as partial:
                download(address, target, partial)
                verify(address, partial, sha256)
    return path


def cache_folder() -> Path:
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home()), "d2o", "cache")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "d2o"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "d2o")


def is_offline() -> bool:
    """Return whether the environment says that nothing is to be asked of the network."""
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in OFFLINE_VARIABLES)


def verify(address: str, file: Path, sha256: str | None) -> None:
    if sha256 is not None and (found := sha256_of(file)) != sha256.lower():
        raise MalformedCheckpointError(f"{address} has SHA-256 {found}, not {sha256}: check the address and the hash.")


def resolve(address: str) -> str:
    if address.startswith("hf://"):
        repository, revision, file = split_hub_address(address)
        hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
        address = f"{hub}/{repository}/resolve/{revision or 'main'}/{quote(file)}"
    check_address(address)
    return address


def split_hub_address(address: str) -> tuple[str, str | None, str]:
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?/([^@?#]+)", address)
    if match is None or ".." in address:
        raise CheckpointError(f"{address} does not name a file: write hf://OWNER/REPOSITORY/FILE.")
    return match[1], match[2], match[3]


def find_in_cache_of_hub(address: str) -> list[Path]:
    """Return the file of an hf:// address where the hub's own client keeps it, or nothing."""
    if not address.startswith("hf://"):
        return []
    from huggingface_hub import try_to_load_from_cache

    repository, revision, file = split_hub_address(address)
    found = try_to_load_from_cache(repository, file, revision=revision)
    return [Path(found)] if isinstance(found, str) else []


def check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)
    except ValueError:
        is_safe = False
    if not is_safe:  # others could change its content on the way
        raise CheckpointError(f"{address} cannot be downloaded: use an https:// or hf:// address, or a file.")


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(address: str, target: str, path: Path) -> None:
    """Write the file at an https address to a path; a connection that breaks is an error."""
    from rich.console import Console
    from rich.progress import wrap_file

    if is_offline():
        raise CheckpointError(f"{address} is not in the cache, and {' or '.join(OFFLINE_VARIABLES)} is set: {BY_HAND}.")
    try:
        request = urllib.request.Request(target, headers={"User-Agent": "d2o"})
        if address.startswith("hf://") and (token := os.environ.get("HF_TOKEN")):
            request.add_unredirected_header("Authorization", f"Bearer {token}")  # the hub's, and nobody else's
        with urllib.request.build_opener(SafeRedirects).open(request, timeout=SECONDS) as answer:
            length = int(answer.headers.get("Content-Length") or 0)
            display: dict[str, Any] = {"console": Console(stderr=True), "disable": not sys.stderr.isatty()}
            with wrap_file(answer, length, description=address, **display) as content, path.open("wb") as file:
                copyfileobj(content, file, CHUNK)
    except urllib.error.HTTPError as error:
        answered = f"the server answered {error.code} ({error.reason})"
        raise CheckpointError(f"{address} cannot be downloaded: {answered}; check the address.") from error
    except CheckpointError:  # of a redirect
        raise
    except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError, ValueError) as error:
        reason = str(error.reason if isinstance(error, urllib.error.URLError) else error) or type(error).__name__
        raise CheckpointError(f"{address} is not in the cache and cannot be fetched ({reason}): {BY_HAND}.") from error
    if length and (got := path.stat().st_size) != length:
        raise CheckpointError(f"The connection to {address} broke at {got:,} of {length:,} bytes: try again.")
