"""Where images are stored: one reader per format, recognised by content; each gives a `Source` and decodes nothing."""

import difflib
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
HIDDEN = re.compile(r"(^|/)(\.|__MACOSX)")
ARRAY_NAMES = ("images", "arr_0", "x")
LABEL_NAMES = ("labels", "label", "y", "fine_label", "class", "target")
IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png")
DAMAGED = (OSError, EOFError, SyntaxError, RuntimeError, MemoryError, zlib.error, zipfile.BadZipFile)
"""What the readers of files raise for content that is broken, encrypted or of an unknown kind."""
WHOLE = 1 << 20  # a file of a zip up to this many bytes is read at once, which also checks its sum
LARGEST = 1 << 30  # a compressed image larger than this many bytes is a bomb


@dataclass(frozen=True)
class Source:
    """Images as they are stored.

    `open(i)` gives image i as an encoded file or as uint8 pixels [H, W, C]; `names[i]` names it in errors; `labels` are
    as found, not yet checked.
    """

    path: str
    names: Sequence[str]
    open: Callable[[int], IO[bytes] | np.ndarray]
    labels: Sequence[Any] | None

    def image(self, index: int) -> str:
        """Return words that name one image for an error message."""
        return f"{self.names[index]} in {self.path}"


def find(name: str | Path, labels: str = "auto") -> Source:
    """Return the `Source` behind a built-in name, a path or a pattern with * of parquet files.

    `labels` is "auto", "none" or the name of an array or column. Raises ValueError, naming the file and the remedy.
    """
    if str(name) in BUILT_IN:
        return BUILT_IN[str(name)](labels)
    path = Path(name).expanduser()
    try:
        if "*" in path.name and not path.exists():
            return _parquet(path, sorted(path.parent.glob(path.name)), labels)
        if path.is_dir():
            return _folder(path, labels)
        if not path.exists():
            raise ValueError(_missing(path))
        with path.open("rb") as file:
            start = file.read(64)
    except PermissionError as error:
        raise ValueError(f"{error.filename or path} may not be read by this user; change its permissions.") from error
    for magic, read in MAGIC.items():
        if start.startswith(magic):
            return read(path, labels)
    raise ValueError(
        f"{path} is not a data set: expected an EDM zip, a folder of images, an .npz file, "
        f"a Hugging Face .parquet file or a built-in name ({', '.join(BUILT_IN)})."
    )


def _missing(path: Path) -> str:
    beside = map(str, path.parent.iterdir()) if path.parent.is_dir() else ()
    near = difflib.get_close_matches(str(path), [*BUILT_IN, *beside], n=1)
    hint = f"did you mean {near[0]}?" if near else "give the path of a zip, folder, npz or parquet file."
    return f"There are no images at {path} (built-in names: {', '.join(BUILT_IN)}); {hint}"


def _digits(labels: str) -> Source:
    # scikit-learn's file without scikit-learn: importing it takes longer than anything else before a short run.
    package = find_spec("sklearn")
    assert package is not None and package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")
    pixels = np.floor(table[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16) + 0.5).astype(np.uint8)
    return _pixels("digits", pixels, table[:, -1].astype(np.int64) if _only(Path("digits"), labels) else None)


def _pixels(path: str, pixels: np.ndarray, labels: np.ndarray | None) -> Source:
    names = [f"image {i}" for i in range(len(pixels))]
    return Source(path, names, pixels.__getitem__, None if labels is None else list(labels))


def _only(path: Path, labels: str) -> bool:
    """Whether labels are wanted, where they have no name of their own."""
    if labels not in ("auto", "none"):
        raise ValueError(f"{path} has no label column {labels!r} to choose; use --labels auto or --labels none.")
    return labels == "auto"


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not HIDDEN.search(name)


def _listed(path: Path, text: bytes, names: Sequence[str]) -> list[Any] | None:
    """Read the labels of EDM's dataset.json in the order of `names`."""
    try:
        labels = json.loads(text)["labels"]
        given = None if labels is None else {str(name).replace("\\", "/"): label for name, label in labels}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'dataset.json in {path} cannot be read; it must be {{"labels": [["name.png", 0], ...]}} or null '
            "(--labels none ignores it)."
        ) from error
    if given is None:
        return None
    without = [name for name in names if name not in given]
    unknown = set(given) - set(names)
    if without or unknown:
        what = f"gives no label for {without[0]}" if without else f"labels {min(unknown)}, which is not there"
        raise ValueError(f"dataset.json in {path} {what}; complete it, or ignore it with --labels none.")
    return [given[name] for name in names]


class _Archive:
    """A zip that every process opens for itself, since processes that share a file would move each other's place."""

    def __init__(self, path: Path):
        self.path, self.process = path, 0

    def __call__(self) -> zipfile.ZipFile:
        if self.process != os.getpid():
            self.archive, self.process = zipfile.ZipFile(self.path), os.getpid()
        return self.archive

    def open(self, name: str) -> IO[bytes]:
        archive = self()
        size = archive.getinfo(name).file_size
        if size > LARGEST:
            raise OSError(f"unpacked it would take {size:,} bytes")
        return io.BytesIO(archive.read(name)) if size <= WHOLE else archive.open(name)


def _zip(path: Path, labels: str) -> Source:
    archive = _Archive(path)
    try:
        entries = archive().namelist()
        if entries and all(name.endswith(".npy") for name in entries):
            return _npz(path, labels)
        names = sorted(name for name in entries if _is_image(name))
        listing = archive().read("dataset.json") if "dataset.json" in entries and _only(path, labels) else None
    except DAMAGED as error:
        raise ValueError(f"{path} is a truncated or damaged zip ({error}); copy or download it again.") from error
    if not names:
        raise ValueError(f"{path} holds no images ({', '.join(SUFFIXES)}); give a zip in EDM's layout.")
    found = None if listing is None else _listed(path, listing, names)
    return Source(str(path), names, lambda index: archive.open(names[index]), found)


def _npz(path: Path, labels: str) -> Source:
    try:
        with np.load(path, allow_pickle=False) as file:
            key = next((name for name in ARRAY_NAMES if name in file), None)
            if key is None:
                names = ", ".join(file) or "nothing"
                raise KeyError(f"{path} has no array {' or '.join(ARRAY_NAMES)}, only {names}; name them `images`.")
            pixels = file[key]
            column = _column(path, labels, list(file))
            found = None if column is None else file[column]
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    except (*DAMAGED, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); save plain uint8 arrays with numpy.savez.") from error
    if pixels.dtype != np.uint8:
        raise ValueError(f"{path}: `{key}` holds {pixels.dtype}; save the pixels as uint8 from 0 to 255.")
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.ndim == 4 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[1] in (1, 3, 4):
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3, 4) or 0 in pixels.shape:
        raise ValueError(f"{path}: `{key}` has the shape {pixels.shape}; save images [N, H, W, C] of 1 or 3 channels.")
    if found is not None and found.ndim != 1:
        raise ValueError(f"{path}: `{column}` has the shape {found.shape}; expected one integer per image.")
    return _pixels(str(path), pixels, found)


def _column(path: Path, labels: str, columns: Sequence[str]) -> str | None:
    """Choose the array or column of labels, or None."""
    if labels == "none":
        return None
    if labels != "auto" and labels not in columns:
        raise KeyError(f"{path} has no labels named {labels!r}, only {', '.join(columns)}; choose another --labels.")
    return next((name for name in LABEL_NAMES if name in columns), None) if labels == "auto" else labels


def _walk(root: Path) -> list[str]:
    """List the files below a folder by their relative names with /, following links but no circle of links."""

    def refuse(error: OSError) -> None:
        raise error

    files: list[str] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        prefix = Path(folder).relative_to(root).as_posix() + "/"
        files += names if prefix == "./" else [prefix + name for name in names]
    return files


def _folder(path: Path, labels: str) -> Source:
    files = _walk(path)
    tables = [path / name for name in sorted(files) if name.endswith(".parquet")]
    if tables:
        return _parquet(path, tables, labels)
    names = sorted(filter(_is_image, files))
    if not names:
        raise ValueError(f"The folder {path} holds no images ({', '.join(SUFFIXES)}) and no .parquet files.")
    found = None
    if _only(path, labels):
        listing = path / "dataset.json"
        found = _listed(path, listing.read_bytes(), names) if listing.exists() else _classes(path, names)
    return Source(str(path), names, lambda index: (path / names[index]).open("rb"), found)


def _classes(path: Path, names: Sequence[str]) -> list[int] | None:
    """Number the sub-folders in sorted order; names that are all numbers are sorted as numbers."""
    folders = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(folders))
    if classes == [""]:
        return None
    if "" in classes:
        alone = names[folders.index("")]
        raise ValueError(f"{path} has images in class folders and outside ({alone}); move them, or add --labels none.")
    if all(name.isdecimal() for name in classes):
        classes.sort(key=int)
    number = {name: i for i, name in enumerate(classes)}
    return [number[folder] for folder in folders]


def _parquet(path: Path, files: Sequence[Path], labels: str) -> Source:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    splits = sorted({file.stem.split("-")[0] for file in files if "-of-" in file.stem})
    if len(splits) > 1:
        example = files[-1].with_name(files[-1].stem.split("-")[0] + "-*")
        raise ValueError(f"{path} mixes the splits {', '.join(splits)}; name one, for example '{example}'.")
    if not files:
        raise ValueError(_missing(path))
    try:
        schema = parquet.read_schema(files[0])
        pictures = [field.name for field in schema if _holds_images(field.type)]
        if not pictures:
            raise KeyError(f"{files[0]} has no column of images, only {', '.join(schema.names)}; give another file.")
        picture = next((name for name in IMAGE_COLUMNS if name in pictures), pictures[0])
        column = _column(path, labels, schema.names)
        tables = [parquet.read_table(file, columns=[picture, *([column] if column else [])]) for file in files]
        table = arrow.concat_tables(tables)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    except (arrow.ArrowException, *DAMAGED) as error:
        raise ValueError(f"{path} is damaged, or its files differ in columns ({error}); download it again.") from error
    if not len(table):
        raise ValueError(f"{path} has no rows; choose another file.")
    rows = [(file, row) for file, part in zip(files, tables, strict=True) for row in range(len(part))]
    images = table[picture]

    def open_row(index: int) -> IO[bytes]:
        stored = images[index].as_py()
        folder, name = rows[index][0].parent.resolve(), None
        if isinstance(stored, dict):
            stored, name = stored["bytes"], stored.get("path")
        if stored is not None:
            return io.BytesIO(stored)
        if name is None:
            raise OSError("it has neither bytes nor a path")
        if not (folder / name).resolve().is_relative_to(folder):
            raise OSError(f"its path {name!r} leads out of the folder of the parquet file")
        return (folder / name).open("rb")

    found = table[column].to_pylist() if column else None
    return Source(str(path), [f"row {row} of {file.name}" for file, row in rows], open_row, found)


def _holds_images(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return types.is_binary(kind) or types.is_large_binary(kind)


def _pointer(path: Path, labels: str) -> Source:
    raise ValueError(f"{path} is a git-LFS pointer, not the data; run `git lfs pull` (labels: {labels}).")


BUILT_IN: dict[str, Callable[[str], Source]] = {"digits": _digits}
LFS = b"version https://git-lfs"
MAGIC: dict[bytes, Callable[[Path, str], Source]] = {
    b"PK": _zip,
    b"PAR1": lambda path, labels: _parquet(path, [path], labels),
    LFS: _pointer,
}
