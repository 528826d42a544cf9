"""Images as files: seeds as text, float to uint8 by one rounding rule, and grids, arrays, folders and zips written.

uint8 images are always numpy arrays [N, H, W, C]; float images are always tensors [N, C, H, W] in [-1, 1].
"""

import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2o.errors import Diverged
from d2o.files import ENDS, atomic, check_file, check_folder
from d2o.pages import encode_image

MAX_SEED = 2**63 - 1  # what a signed 64-bit tensor can hold
MAX_SEEDS = 10_000_000  # a longer list is a typing error
GRID_SIDE = 64  # an image of a grid is enlarged until it is about this wide


def parse_seeds(text: str, most: int = MAX_SEEDS) -> list[int]:
    """Read seeds such as "0-63" or "1,5,9-12" (both ends included), in the order written.

    Raises ValueError for anything else, for a range that runs backwards, a seed that is named twice, and too many.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,19})\s*(?:-\s*([0-9]{1,19})\s*)?", part)
        if match is None:
            raise ValueError(f"--seeds {text!r}: {part.strip()!r} is not a seed; write for example 0-63 or 1,5,9-12.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"--seeds {text!r}: {part.strip()!r} runs backwards; write {last}-{first}.")
        if last > MAX_SEED:
            raise ValueError(f"--seeds {text!r}: {last} is too large; the largest seed is {MAX_SEED}.")
        if len(seeds) + last - first >= most:
            raise ValueError(f"--seeds {text!r} names more than {most:,} seeds; split it into several calls.")
        seeds.extend(range(first, last + 1))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds {text!r} repeats seed {Counter(seeds).most_common(1)[0][0]}; name it once.")
    return seeds


def to_uint8(images: Tensor, model: str = "The model") -> np.ndarray:
    """Turn images [N, C, H, W] in [-1, 1] into uint8 [N, H, W, C]: clamped, halves rounded away from zero.

    Raises Diverged, which names the `model` that made them, when a value is not a number.
    """
    images = images.detach().float()
    if images.isnan().any():
        raise Diverged(f"{model} makes images with values that are not numbers (NaN)")
    levels = ((images + 1) * 127.5).clamp(0, 255).add(0.5).floor().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def to_float(images: np.ndarray) -> Tensor:
    """Turn uint8 images [N, H, W, C] into float32 [N, C, H, W] in [-1, 1]; `to_uint8` undoes it exactly."""
    assert images.dtype == np.uint8 and images.ndim == 4, (images.dtype, images.shape)
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)).div_(127.5).sub_(1)


def grid(images: np.ndarray, columns: int | None = None, scale: int | None = None, gap: int = 2) -> np.ndarray:
    """Lay uint8 images [N, H, W, C] out in rows on white: uint8 [H, W, C].

    The default number of `columns` makes nearly a square; `scale` enlarges by repeating pixels, by default to about
    GRID_SIDE; `gap` is in pixels of the result, between images and around them.
    """
    assert images.dtype == np.uint8 and images.ndim == 4 and len(images), (images.dtype, images.shape)
    count, height, width, channels = images.shape
    scale = scale or max(1, GRID_SIDE // max(height, width))
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    height, width = height * scale + gap, width * scale + gap
    canvas = np.full((rows * height + gap, columns * width + gap, channels), 255, np.uint8)
    for i, image in enumerate(images.repeat(scale, axis=1).repeat(scale, axis=2)):
        top, left = i // columns * height + gap, i % columns * width + gap
        canvas[top : top + height - gap, left : left + width - gap] = image
    return canvas


def is_folders_name(path: str | Path) -> bool:
    """Return whether a name is that of a folder: one that exists, or a new one without suffix or with / at its end."""
    return str(path).endswith(ENDS) or Path(path).is_dir() or not Path(path).suffix


def check_images(path: str | Path) -> Path:
    """Return a path that images can be written to in the form that its name asks for; raises ValueError otherwise."""
    is_folder = is_folders_name(path)
    path = (check_folder if is_folder else check_file)(path)
    if not is_folder and path.suffix.lower() not in WRITERS:
        raise ValueError(f"Cannot write images to {path}: end its name in .png, .npz or .zip, or in / for a folder.")
    if path.is_dir() and (not path.name or any(path.iterdir())):
        raise ValueError(f"The folder {path} is in use or not empty: name a new one.")
    return path


def write_images(
    path: str | Path,
    batches: Iterable[np.ndarray],
    seeds: Sequence[int] | None = None,
    labels: Sequence[int] | None = None,
) -> Path:
    """Write uint8 batches [n, H, W, C] atomically, in the form that the name of `path` asks for.

    `x.png` is a grid; `x.npz` has the arrays `images`, `seeds` and `labels`; `x.zip` is a data set in EDM's layout; a
    folder's name becomes a folder with one PNG per seed, and EDM's dataset.json when there are labels.
    `seeds` (default 0, 1, 2, ...) and `labels` have one entry per image. Raises ValueError for other suffixes, lists
    that do not fit the images, a folder that is not empty, and, before the first batch, where nothing can be written.
    """
    is_folder, path = is_folders_name(path), check_images(path)
    write = WRITERS["" if is_folder else path.suffix.lower()]
    with atomic(path) as temporary:
        write(temporary, label_images(path, batches, seeds, labels))
    return path


Labelled = Iterator[tuple[np.ndarray, int, int | None]]  # one image [H, W, C], its seed, its label


def label_images(
    path: Path, batches: Iterable[np.ndarray], seeds: Sequence[int] | None, labels: Sequence[int] | None
) -> Labelled:
    """Yield the images of batches with their seeds and labels; raises ValueError where their numbers differ."""
    count = 0
    for batch in batches:
        assert batch.dtype == np.uint8 and batch.ndim == 4, (batch.dtype, batch.shape)
        for image in batch:
            if any(given is not None and count >= len(given) for given in (seeds, labels)):
                raise ValueError(f"Cannot write {path}: there are more images than seeds or labels.")
            seed = count if seeds is None else int(seeds[count])
            yield image, seed, None if labels is None else int(labels[count])
            count += 1
    if not count:
        raise ValueError(f"Cannot write {path}: there are no images.")
    if any(given is not None and count != len(given) for given in (seeds, labels)):
        raise ValueError(f"Cannot write {path}: there are fewer images ({count}) than seeds or labels.")


def write_grid(path: Path, images: Labelled) -> None:
    path.write_bytes(encode_image(grid(np.stack([image for image, _, _ in images]))))


def write_arrays(path: Path, images: Labelled) -> None:
    pixels, seeds, labels = zip(*images, strict=True)
    arrays = {"images": np.stack(pixels), "seeds": np.array(seeds, np.int64)}
    if None not in labels:
        arrays["labels"] = np.array(labels, np.int64)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_zip(path: Path, images: Labelled) -> None:
    """Write a zip in EDM's layout, whose dataset.json says null where there are no labels."""
    labels = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for image, seed, label in images:
            name = f"{seed // 1000:05d}/img{seed:08d}.png"
            archive.writestr(name, encode_image(image))
            labels[name] = label
        archive.writestr("dataset.json", list_labels(labels))


def write_folder(path: Path, images: Labelled) -> None:
    """Write one PNG per seed, and EDM's dataset.json where there are labels."""
    labels = {}
    path.mkdir()
    for image, seed, label in images:
        name = f"{seed:06d}.png"
        (path / name).write_bytes(encode_image(image))
        labels[name] = label
    if None not in labels.values():
        (path / "dataset.json").write_text(list_labels(labels))


def list_labels(labels: dict[str, int | None]) -> str:
    return json.dumps({"labels": None if None in labels.values() else list(labels.items())})


WRITERS: dict[str, Callable[[Path, Labelled], None]] = {
    ".png": write_grid,
    ".npz": write_arrays,
    ".zip": write_zip,
    "": write_folder,
}
