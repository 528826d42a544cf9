"""Numpy's .npz files, whose arrays are checked before they are read."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from d2o.files import open_zip

from .source import MOST_IMAGES, Source, check_room, choose_labels, list_names, name_damage

ARRAY_NAMES = ("images", "arr_0", "x")


def load_arrays(path: str | Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return those of the named arrays that an .npz file has; raises ValueError for what is none or unpacks too far."""
    arrays = {}
    with name_damage(path, "save plain arrays with numpy.savez"), open_zip(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        for name in names:
            if (entry := entries.get(f"{name}.npy")) is not None:
                check_room([path], entry.compress_size, entry.file_size)
                with archive.open(entry) as file:
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def read_npz(path: Path, arrays: Sequence[str], labels: str) -> Source:
    key = next((name for name in ARRAY_NAMES if name in arrays), None)
    if key is None:
        raise ValueError(
            f"{path} has no array {' or '.join(ARRAY_NAMES)}, only {list_names(arrays)}; name it `images`."
        )
    column = choose_labels(path, labels, arrays)
    found = load_arrays(path, [key, column] if column else [key])
    pixels, classes = found[key], found[column] if column else None
    if pixels.dtype != np.uint8:
        raise ValueError(f"{path}: `{key}` has the type {pixels.dtype}; save the pixels as uint8 from 0 to 255.")
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.ndim == 4 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[1] in (1, 3, 4):
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3, 4) or 0 in pixels.shape or len(pixels) > MOST_IMAGES:
        raise ValueError(f"{path}: `{key}` has the shape {pixels.shape}; save images [N, H, W, C] of 1 or 3 channels.")
    if classes is not None and (classes.ndim != 1 or len(classes) > MOST_IMAGES):
        raise ValueError(f"{path}: `{column}` has the shape {classes.shape}; expected one integer per image.")
    return from_arrays(str(path), pixels, classes)


def from_arrays(path: str, pixels: np.ndarray, labels: np.ndarray | None) -> Source:
    """Return uint8 images [N, H, W, C] in memory, with labels [N] or None, as a source."""
    names = [f"image {i}" for i in range(len(pixels))]
    return Source(path, names, pixels.__getitem__, None if labels is None else list(labels))
