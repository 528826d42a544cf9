"""How fast images are decoded: images a second of one core, and of the stream that training reads.

python benchmarks/loading.py
python benchmarks/loading.py --images 256 --seconds 0.5 --out loading.json

`decoded` counts images that no one has read before by a core's own seconds; `stream` is the rate of shuffled batches of
64 in float32, which threads make ahead, by the clock; `again` the stream's once all images are in memory.
"""

import argparse
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from operations import describe_machine

from d2o.data.datasets import open_images

KINDS = {"PNG 32x32": ("PNG", 32), "PNG 64x64": ("PNG", 64), "JPEG 256x256": ("JPEG", 256)}
BATCH = 64


def draw(side: int, seed: int) -> PIL.Image.Image:
    """Return a smooth random image with a little noise: what photographs cost to unpack."""
    random = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(random.integers(0, 256, (max(side // 8, 2),) * 2 + (3,), np.uint8))
    smooth = np.asarray(coarse.resize((side, side), PIL.Image.Resampling.BICUBIC), np.float32)
    return PIL.Image.fromarray((smooth + 6 * random.standard_normal(smooth.shape)).clip(0, 255).astype(np.uint8))


def write_zip(path: Path, form: str, side: int, images: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(images):
            content = io.BytesIO()
            draw(side, number).save(content, form, **({"quality": 90} if form == "JPEG" else {}))
            archive.writestr(f"{number:06d}.{form.lower()}", content.getvalue())


def time_rate(work: Callable[[], int], seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how many images a second a piece of work does, which says how many it did."""
    done, began = 0, clock()
    while (taken := clock() - began) < seconds or not done:
        done += work()
    return done / taken


def measure(images: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind of image."""
    for name, (form, side) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "images.zip"
            write_zip(path, form, side, images)
            unread, kept = open_images(path, cache_bytes=0), open_images(path)
            numbers, batch = count(), min(BATCH, images)

            def decode(unread: Any = unread, numbers: Any = numbers) -> int:
                return len(unread.pixels([next(numbers) % len(unread)]))

            def read(batches: Any) -> Callable[[], int]:
                return lambda: len(next(batches).x0)

            kept.pixels(range(images))
            rates = {
                "decoded": time_rate(decode, seconds, time.thread_time),
                "stream": time_rate(read(unread.batches(batch)), seconds),
                "again": time_rate(read(kept.batches(batch)), seconds),
            }
            yield {"kind": name, "bytes": path.stat().st_size // images} | rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="of each kind")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each rate")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)  # batches are made into floats by as many threads as read them
    rows = list(measure(options.images, options.seconds))
    print("| images | bytes | decoded a second and core | stream | stream from memory |\n|---|---|---|---|---|")
    for row in rows:
        rates = " | ".join(f"{row[name]:,.0f}" for name in ("decoded", "stream", "again"))
        print(f"| {row['kind']} | {row['bytes']:,} | {rates} |")
    if options.out:
        options.out.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
