"""Checkpoints at an address: fetched once into a cache, continued where a download broke off, verified by hash.

hf://OWNER/REPOSITORY/FILE (with @REVISION after the repository's name, else main) is a file on the Hugging Face hub;
HF_TOKEN opens those that are not public.
"""

import hashlib
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from d2o.errors import CheckpointError, MalformedCheckpointError

CACHE_VARIABLE = "D2O_CACHE"
OFFLINE_VARIABLES = ("D2O_OFFLINE", "HF_HUB_OFFLINE")
HUB = "https://huggingface.co"
LOCAL = ("localhost", "127.0.0.1", "::1")
SECONDS = 10
SHOW_SECONDS = 3
CHUNK = 1 << 20
PARTIAL_CONTENT, NOT_SATISFIABLE = 206, 416


def is_address(path: object) -> bool:
    """Return whether a path is an address to fetch."""
    return isinstance(path, str) and re.match(r"[a-z]+://", path) is not None


def cache_folder() -> Path:
    """Return where fetched files are kept: D2O_CACHE, or the platform's place."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "d2o" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "d2o"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "d2o"


def resolved(address: str) -> str:
    """Return the https address that is meant; http is allowed on this machine only."""
    if address.startswith("hf://"):
        match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?/([^@?#]+)", address)
        if match is None or ".." in address:
            raise CheckpointError(f"{address} does not name a file: write hf://OWNER/REPOSITORY/FILE.")
        repository, revision, file = match.groups()
        hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
        address = f"{hub}/{repository}/resolve/{revision or 'main'}/{quote(file)}"
    check(address)
    return address


def check(address: str) -> None:
    """Raise for an address that is not fetched, because others could change on the way what it gives."""
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise CheckpointError(f"{address} is no address ({error}).") from error
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL):
        raise CheckpointError(f"{address} is not fetched: use an https:// or hf:// address, or a file.")


def fetch(address: str, sha256: str | None = None) -> Path:
    """Return the file at an address, from the cache or by download; the cache holds complete, verified files only."""
    target = resolved(address)
    name = re.sub(r"[^\w.-]", "_", unquote(Path(urlsplit(target).path).name))[-100:] or "checkpoint"
    place = cache_folder() / f"{hashlib.sha256(target.encode()).hexdigest()[:16]}-{name}"
    if not place.exists():
        with alone(place.with_name(f"{place.name}.part")) as partial:
            if not place.exists():  # another process may have fetched it while we waited
                download(address, target, partial)
                verify(address, partial, sha256)
                partial.replace(place)
    verify(address, place, sha256)
    return place


def verify(address: str, file: Path, sha256: str | None) -> None:
    """Compare a file's hash with the one that was asked for; a wrong file is removed."""
    if sha256 is None:
        return
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != sha256.lower():
        file.unlink()
        raise MalformedCheckpointError(
            f"{address} has SHA-256 {found}, not {sha256}: check the address and the hash; the file was not kept."
        )


@contextmanager
def alone(partial: Path) -> Iterator[Path]:
    """Keep other processes from writing the same partial file meanwhile, where the system can."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.with_suffix(".lock").open("w") as lock:
        try:
            import fcntl
        except ImportError:
            yield partial
            return
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield partial


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to addresses that would themselves be fetched, and to no others."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(address: str, target: str, partial: Path) -> None:
    """Write the file at `target` to `partial`, which keeps what came if the connection breaks."""
    if any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in OFFLINE_VARIABLES):
        raise CheckpointError(f"{address} is not in the cache, and {' or '.join(OFFLINE_VARIABLES)} is set: {BY_HAND}.")
    validator = partial.with_suffix(".etag")  # tells whether the file at the address is still the one that was begun
    had = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "d2o"}
    if had:
        headers["Range"] = f"bytes={had}-"
        if validator.exists():
            headers["If-Range"] = validator.read_text()
    opener = urllib.request.build_opener(SafeRedirects)
    try:
        request = urllib.request.Request(target, headers=headers)
        if address.startswith("hf://") and (token := os.environ.get("HF_TOKEN")):
            request.add_unredirected_header("Authorization", f"Bearer {token}")  # the hub's, and nobody else's
        with opener.open(request, timeout=SECONDS) as answer:
            continued = answer.status == PARTIAL_CONTENT and answer.headers.get("Content-Range", "").startswith(
                f"bytes {had}-"
            )
            if answer.status == PARTIAL_CONTENT and not continued:
                partial.unlink()
                raise CheckpointError(f"{address} answered with another part than was asked for: try again.")
            tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            if tag and not tag.startswith("W/"):
                validator.write_text(tag)
            expected = answer.headers.get("Content-Length")
            expected = None if expected is None else int(expected) + (had if continued else 0)
            with partial.open("ab" if continued else "wb") as file:
                shown = time.monotonic()
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    shown = show(address, file.tell(), expected, shown)
    except urllib.error.HTTPError as error:
        if error.code == NOT_SATISFIABLE and had:  # the partial file is complete, or of another file
            partial.unlink()
            download(address, target, partial)
            return
        raise CheckpointError(
            f"{address} cannot be fetched: the server answered {error.code} ({error.reason}); check the address."
        ) from error
    except (OSError, ValueError, HTTPException) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise CheckpointError(f"{address} is not in the cache and cannot be fetched ({reason}): {BY_HAND}.") from error
    got = partial.stat().st_size
    if expected is not None and got != expected:
        raise CheckpointError(
            f"The connection to {address} broke at {got:,} of {expected:,} bytes; the same call again continues there."
        )
    validator.unlink(missing_ok=True)


def show(address: str, got: int, expected: int | None, shown: float) -> float:
    """Print how far a download is, at most every few seconds, and return when that was last done."""
    if time.monotonic() - shown < SHOW_SECONDS:
        return shown
    whole = "" if expected is None else f" of {expected / 1e6:,.0f}"
    print(f"{address}: {got / 1e6:,.0f}{whole} MB", file=sys.stderr, flush=True)
    return time.monotonic()


BY_HAND = "connect to the network, or download the file by hand and give its path"
