"""One rule for what a path, an address or a name stands for: a model, a data set, or stored statistics.

What is on disk is recognised by its content, never by its suffix; what it is named only matters where nothing is there.
"""

import os
import re
import zipfile
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, get_args

from d2o.errors import CheckpointError, MalformedCheckpointError
from d2o.files import find_alike, open_regular, open_zip
from d2o.records import nearest

from .shipped import SHIPPED, find_shipped

Kind = Literal["model", "data", "statistics"]
Form = Literal["run", "safetensors", "pickle", "torch", "diffusers"]
REFERENCE: tuple[Kind, ...] = ("data", "statistics", "model")
"""What images are compared with, the usual first."""
NOUNS = {"model": "a model", "data": "a data set", "statistics": "stored statistics"}
EXAMPLES = {
    "model": f"a checkpoint, a run directory, a diffusers folder, an address, or one of {', '.join(SHIPPED)}",
    "data": "a folder of images, a zip, .npz, .parquet or .tar file, or digits",
    "statistics": "an .npz file of mu and sigma",
}
SAVED = ("ema.safetensors", "checkpoint.safetensors")
"""The model of a run directory: of a finished run, and of an unfinished one."""
DIFFUSERS = ("model_index.json", "config.json")
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first of the five pickles of a file of torch.save before its version 1.6: a magic number."""
MOST_LISTED = 50_000
"""Entries of a zip that is recognised by more than its first one."""
START = 1024
"""Bytes of a file by which it is recognised."""
STARTS: tuple[tuple[bytes, Kind, Form | None], ...] = (
    (rb".{257}ustar", "data", None),  # a tar, whose first file may be called anything
    (re.escape(LEGACY_TORCH), "model", "torch"),
    (rb".{4}\0{4}\{", "model", "safetensors"),  # before pickles: its header's length may begin as they do
    (rb"\x80[\x02-\x05]", "model", "pickle"),
    (rb"PAR1", "data", None),
    (rb".{8}\{", "model", "safetensors"),
    (rb".{0,8}$", "model", "safetensors"),  # too short even for its header: its reader says so
)
USELESS = (
    (rb"$", "is empty: fetch the file again"),
    (rb"version https://git-lfs", "is a git-LFS pointer, not the file itself: run `git lfs pull`"),
    (rb"\s*<(!doctype|html|head|\?xml|!--)", "is a web page saved in place of the file: download it again"),
)


@dataclass(frozen=True)
class Place:
    """What a `name` stands for: `path` is the file or folder to read, `form` the format of a model.

    The path of an address is that of the file in the cache, of a built-in data set its name.
    """

    kind: Kind
    name: str
    path: Path
    form: Form | None = None

    @property
    def unfinished(self) -> bool:
        """Whether it is a run of which the last checkpoint is taken, as it has not ended."""
        return self.form == "run" and not (self.path / SAVED[0]).is_file()


def find_saved(run: Path) -> Path | None:
    """Return the file of a run's model: the result, or the newest checkpoint, of a run in stages the newest stage's."""
    stages = run.glob("stage-*") if (run / "recipe.json").is_file() else ()
    stages = sorted(stages, key=lambda stage: (len(stage.name), stage.name), reverse=True)
    files = (folder / name for folder in (run, *stages) for name in SAVED)
    return next((file for file in files if file.exists()), None)


def locate(name: str | os.PathLike, *wanted: Kind, sha256: str | None = None) -> Place:
    """Return what a path, an address or a name stands for; an error where it is none of the kinds `wanted` (or any).

    A name of both a model and a data set is a data set only where that is wanted first. An address is fetched first.
    `sha256` is the hash that the file must have. Raises CheckpointError, a ValueError.
    """
    wanted, asked = wanted or get_args(Kind), os.fspath(name)
    is_address = re.match(r"[a-z]+://", asked) is not None
    if is_address:
        from d2o.fetch import fetch

        place = recognise(asked, fetch(asked, sha256))
    else:
        place = find(asked, wanted)
    if place.kind not in wanted:
        noun = "a folder without a model" if place.kind == "data" and place.path.is_dir() else NOUNS[place.kind]
        raise CheckpointError(f"{asked} is {noun}: {suggest(wanted)}")
    if sha256 and place.path.is_dir():
        raise CheckpointError(f"{asked} is a folder, and sha256 is the hash of a file: leave it out.")
    if sha256 and not is_address:
        from d2o.fetch import verify

        verify(asked, place.path, sha256)
    return place


def find(name: str, wanted: tuple[Kind, ...]) -> Place:
    path = Path(name).expanduser()
    is_shipped = name in SHIPPED and not path.exists()
    if is_shipped and wanted[0] == "model":  # nothing more is imported for it
        return Place("model", name, find_shipped(name), "safetensors")
    from d2o.data.sources import BUILT_IN

    if name in BUILT_IN and (wanted != ("model",) or not path.exists()):
        return Place("data", name, Path(name))
    if is_shipped:
        return Place("model", name, find_shipped(name), "safetensors")
    if path.exists() or ("*" in path.name and "data" in wanted):
        return recognise(name, path)
    known = [*(SHIPPED if "model" in wanted else ()), *(BUILT_IN if "data" in wanted else ())]
    close = get_close_matches(name, known, n=1)
    close += [str(Path(name).with_name(there)) for there in find_alike(path, lambda there: would_do(there, wanted))]
    raise CheckpointError(f"There is nothing at {name}: {nearest(name, close) if close else suggest(wanted)}")


def would_do(path: Path, wanted: tuple[Kind, ...]) -> bool:
    """Return whether something on disk is of a kind that is wanted, as far as can be told without reading it whole."""
    from d2o.data.sources import can_open

    from . import native

    try:
        place = recognise(str(path), path)
        if place.form == "safetensors" and native.find_description(path) != native.CONFIG:
            native.read_header(path)
    except CheckpointError:
        return False
    return place.kind in wanted and (place.kind != "data" or can_open(path))


def suggest(wanted: tuple[Kind, ...]) -> str:
    return f"name {' or '.join(EXAMPLES[kind] for kind in wanted)}."


def recognise(name: str, path: Path) -> Place:
    from d2o.data.sources import READERS, find_reader

    if path.suffix in READERS:
        return Place("data", name, path)
    if path.is_dir():
        return recognise_folder(name, path)
    if not path.exists():
        return Place("data", name, path)  # a pattern
    if not path.is_file():
        raise CheckpointError(f"{name} is neither a file nor a folder: save its content to a file first.")
    try:
        with open_regular(path) as file:
            start = file.read(START)
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror or error}.") from error
    for pattern, meaning in USELESS:
        if re.match(pattern, start, re.IGNORECASE):
            raise MalformedCheckpointError(f"{name} {meaning}.")
    if start.startswith(b"PK"):
        return recognise_zip(name, path, start)
    for pattern, kind, form in STARTS:
        if re.match(pattern, start, re.DOTALL):
            return Place(kind, name, path, form)
    if find_reader(path) is not None:
        return Place("data", name, path)
    raise MalformedCheckpointError(f"{name} is not something that d2o reads: {suggest(('model', 'data'))}")


def recognise_folder(name: str, path: Path) -> Place:
    if find_saved(path) is not None:
        return Place("model", name, path, "run")
    if (path / "recipe.json").is_file():
        raise CheckpointError(f"{name} is a run without a saved model yet: wait for its first checkpoint.")
    if any((path / file).is_file() for file in DIFFUSERS):
        return Place("model", name, path, "diffusers")
    return Place("data", name, path)


def recognise_zip(name: str, path: Path, start: bytes) -> Place:
    """Return what a zip file is: of torch.save, stored statistics, or else images. A damaged one is left to readers."""
    try:
        with open_zip(path, MOST_LISTED) as archive:
            entries = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        entries = [start.decode("latin-1")]  # the name of the first entry
    if any("/data.pkl" in entry for entry in entries):
        return Place("model", name, path, "torch")
    return Place("statistics" if "mu.npy" in entries else "data", name, path)
