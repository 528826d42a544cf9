"""What a frozen network saw in an image need not be computed again when the image comes back."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

IN_MEMORY = 2 << 30
"""Bytes of memory that what is remembered may take."""
CHUNK = 32
"""At most so many images are computed at once; always as many in one run, since rounding may depend on it."""


class Memory:
    """Remember the maps of images by the images' numbers: in memory, and on disk what does not fit there.

    `memory` and `disk` are limits in bytes; images beyond both are computed each time. The file on disk lies in
    `folder`, without a name, for as long as the process lives, and never takes more than a third of the free space.
    """

    def __init__(self, memory: int = IN_MEMORY, disk: int = 0, folder: str | Path | None = None) -> None:
        self.limits = {"memory": memory, "disk": disk}
        self.folder = folder
        self.stores: list[np.ndarray] | None = None
        self.places: dict[int, int] = {}
        self.shapes: list[tuple[int, ...]] = []  # [H, W, C] of every map
        self.chunk: int | None = None  # a run's first micro-batch is as large as any, and as after it is resumed

    def emptied(self) -> "Memory":
        """Return a memory with the same limits that knows nothing."""
        return Memory(**self.limits, folder=self.folder)

    def maps(self, images: Tensor, numbers: Sequence[int], look: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        """Return what `look` makes of images [N,C,H,W], a list of float32 maps [N,c,h,w], computing only what is new.

        The maps of a number must always be the same.
        """
        chunk = self.chunk = self.chunk or min(CHUNK, len(numbers))
        rows = [self.recall(number) for number in numbers]
        new = [place for place, row in enumerate(rows) if row is None]
        for start in range(0, len(new), chunk):
            chosen = new[start : start + chunk]
            fresh = self.pack(look(images[chosen + chosen[-1:] * (chunk - len(chosen))]))
            for place, row in zip(chosen, fresh, strict=False):
                rows[place] = row
                self.keep(numbers[place], row)
        return self.unpack(np.stack([row for row in rows if row is not None]), images.device)

    def recall(self, number: int) -> np.ndarray | None:
        """Return the row of an image, or None if it is not known."""
        place = self.places.get(number)
        if place is None or self.stores is None:
            return None
        first = len(self.stores[0])
        return self.stores[0][place] if place < first else self.stores[1][place - first]

    def keep(self, number: int, row: np.ndarray) -> None:
        """Write the row of an image down, if there is room."""
        if self.stores is None:
            self.stores = self.open(row.nbytes)
        place = len(self.places)
        if place < sum(map(len, self.stores)):
            self.places[number] = place
            first = len(self.stores[0])
            if place < first:
                self.stores[0][place] = row
            else:
                self.stores[1][place - first] = row

    def open(self, row: int) -> list[np.ndarray]:
        """Return the two stores for rows of `row` bytes; both take room only where they are written."""
        first, second = self.room(row)
        in_memory, on_disk = (np.empty((count, row // 4), np.float32) for count in (first, 0))
        if second:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                on_disk = np.memmap(file, np.float32, "w+", shape=(second, row // 4))
        return [in_memory, on_disk]

    def room(self, row: int) -> tuple[int, int]:
        """Return for how many rows of `row` bytes there is room in memory, and on disk."""
        on_disk = 0
        if self.limits["disk"] and self.folder is not None:
            on_disk = min(self.limits["disk"], shutil.disk_usage(self.folder).free // 3) // row
        return self.limits["memory"] // row, on_disk

    def size(self, row: int, images: int) -> tuple[int, int]:
        """Return the bytes in memory, and on disk, that rows of `row` bytes of so many images will take."""
        first, second = self.room(row)
        first = min(first, images)
        return row * first, row * min(second, images - first)

    def pack(self, maps: list[Tensor]) -> np.ndarray:
        """Return maps [N,c,h,w] as rows [N, D]."""
        last = [fmap.float().permute(0, 2, 3, 1) for fmap in maps]
        self.shapes = [tuple(fmap.shape[1:]) for fmap in last]
        return torch.cat([fmap.flatten(1) for fmap in last], dim=1).cpu().numpy()

    def unpack(self, rows: np.ndarray, device: torch.device) -> list[Tensor]:
        """Return rows [N, D] as maps [N,c,h,w], which lie in memory channels last."""
        parts = torch.from_numpy(rows).to(device).split([prod(shape) for shape in self.shapes], dim=1)
        return [
            part.contiguous().view(-1, *shape).permute(0, 3, 1, 2)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
