"""The files of onnxruntime-web that a page needs: from its npm package, named by the user or fetched once."""

import json
import os
import shutil
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path

from d2o.errors import CheckpointError
from d2o.fetch import fetch

VERSION = "1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
REGISTRY = "https://registry.npmjs.org/"
VARIABLE = "D2O_ONNXRUNTIME_WEB"
"""Names the package once and for all, as --runtime does for one export."""
LARGEST = 100_000_000
BY_HAND = f"`npm pack onnxruntime-web@{VERSION}` makes a file that --runtime takes"


def runtime_files(source: str | None) -> tuple[str, dict[str, bytes]]:
    """Return the version and the files by name, of the package's .tgz or folder, or of the one fetched from npm."""
    source = source or os.environ.get(VARIABLE)
    try:
        place = fetch(package_address(), SHA256) if source is None else Path(source)
    except CheckpointError as error:
        raise CheckpointError(f"{error} {BY_HAND}.") from error
    package = read_file(place, "package.json")
    try:
        match json.loads(package):
            case {"name": "onnxruntime-web", "version": str(version)}:
                return version, {name: read_file(place, f"dist/{name}") for name in FILES}
    except ValueError:
        pass
    raise CheckpointError(f"{place} is not the npm package onnxruntime-web: {BY_HAND}.")


def package_address() -> str:
    registry = {name.lower(): value for name, value in os.environ.items()}.get("npm_config_registry", "")
    if not registry and (npm := shutil.which("npm")):
        with suppress(OSError, subprocess.TimeoutExpired):
            asked = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, timeout=20)
            registry = asked.stdout.strip()
    registry = registry if registry.startswith("http") else REGISTRY
    return f"{registry.rstrip('/')}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"


def read_file(package: Path, name: str) -> bytes:
    """Return a file of the package's folder or .tgz, of which nothing is unpacked."""
    try:
        if package.is_dir():
            return (package / name).read_bytes()
        with tarfile.open(package, "r:gz") as archive:
            member = archive.getmember(f"package/{name}")
            content = archive.extractfile(member) if member.size <= LARGEST else None
            if content is None:
                raise KeyError(name)
            return content.read()
    except (tarfile.TarError, EOFError, OSError, KeyError) as error:
        reason = f"has no {name} of the npm package onnxruntime-web"
        raise CheckpointError(f"{package} {reason}: {BY_HAND}, or give the package's folder.") from error
