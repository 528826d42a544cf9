"""Cache of frozen features, by image number: in memory, and on disk what does not fit there."""

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

IN_MEMORY = 2 << 30  # bytes
CHUNK = 32  # images at most computed at once; always as many in one run, since rounding may depend on it


class Cached(nn.Module):
    """A frozen network, found at `network`, whose maps of images with a number are computed once.

    `memory` is a limit in bytes; images beyond it are computed each time, or kept on disk (see `use_disk`). A GPU keeps
    them in its own memory, up to `gpu_memory` bytes, which are taken at once: none unless that is set.
    """

    def __init__(self, network: nn.Module, memory: int = IN_MEMORY) -> None:
        super().__init__()
        self.network, self.memory, self.gpu_memory, self.disk = network, memory, 0, 0
        self.folder: Path | None = None
        self.clear()

    def use_disk(self, folder: str | Path, limit: int) -> None:
        """Keep what does not fit into memory in a folder, up to `limit` bytes.

        The file there has no name, lives as long as the process, and takes at most a third of the free space.
        """
        self.folder, self.disk = Path(folder), limit

    def clear(self) -> None:
        """Forget all images: those of another data set have the same numbers."""
        self.rows: dict[int, Tensor] = {}
        self.stores: tuple[Tensor, ...] = ()  # in memory and on disk
        self.shapes: list[tuple[int, ...]] = []  # [H, W, C] of every map
        self.chunk: int | None = None  # a run's first micro-batch is as large as any, and as after it is resumed

    def forward(self, images: Tensor, number: Sequence[int] | None = None) -> list[Tensor]:
        """Return the maps [N,c,h,w] of images [N,C,H,W], without gradients where they have a `number`."""
        if number is None or (images.device.type != "cpu" and not self.gpu_memory):
            return self.network(images)
        chunk = self.chunk = self.chunk or min(CHUNK, len(number))
        rows = [self.rows.get(one) for one in number]
        new = [place for place, row in enumerate(rows) if row is None]
        for start in range(0, len(new), chunk):
            chosen = new[start : start + chunk]
            with torch.no_grad():
                fresh = self.pack(self.network(images[chosen + chosen[-1:] * (chunk - len(chosen))]))
            for place, row in zip(chosen, fresh, strict=False):
                rows[place] = row
                self.keep(number[place], row)
        return self.unpack(torch.stack([row for row in rows if row is not None]))

    def keep(self, number: int, row: Tensor) -> None:
        """Store the row of an image that is not stored yet, if there is room."""
        self.stores = self.stores or self.open_stores(row.nbytes, row.device)
        memory, disk = self.stores
        place = len(self.rows)
        store, place = (memory, place) if place < len(memory) else (disk, place - len(memory))
        if number in self.rows or place >= len(store):
            return
        if store is memory:
            store[place] = row
        else:
            try:  # a write to a map of a full disk would end the process
                self.file.seek(place * row.nbytes)
                if self.file.write(row.numpy().data) < row.nbytes:
                    raise OSError
            except OSError:
                self.stores = (memory, disk[:0])
                return
        self.rows[number] = store[place]

    def open_stores(self, row: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the two stores for rows of `row` bytes; on a processor they take room only where they are written."""
        if device.type != "cpu":
            memory = torch.empty(self.gpu_memory // row, row // 4, device=device)
            return memory, memory[:0]
        memory, disk = (np.empty((count, row // 4), np.float32) for count in (self.memory // row, 0))
        if self.disk and self.folder is not None:
            with suppress(OSError):  # a disk that takes nothing
                count = min(self.disk, shutil.disk_usage(self.folder).free // 3) // row
                self.file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115
                disk = np.memmap(self.file, np.float32, "w+", shape=(count, row // 4)) if count else disk
        return torch.from_numpy(memory), torch.from_numpy(disk)

    def pack(self, maps: list[Tensor]) -> Tensor:
        last = [fmap.float().permute(0, 2, 3, 1) for fmap in maps]
        self.shapes = [tuple(fmap.shape[1:]) for fmap in last]
        return torch.cat([fmap.flatten(1) for fmap in last], dim=1)

    def unpack(self, rows: Tensor) -> list[Tensor]:
        """Return rows [N, D] as maps [N,c,h,w], which lie in memory channels last."""
        parts = rows.split(list(map(prod, self.shapes)), dim=1)
        shaped = (part.contiguous().view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True))
        return [part.permute(0, 3, 1, 2) for part in shaped]
