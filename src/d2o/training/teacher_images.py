"""Images of a run's teacher, sampled once into the run's directory, for the stages that take them for real ones."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from d2o.data.datasets import Images, open_images
from d2o.data.files import to_uint8
from d2o.data.layout import ATTRIBUTION
from d2o.data.shuffling import permute
from d2o.diffusion.denoiser import Denoiser, Guided
from d2o.diffusion.sampling import generate
from d2o.files import atomic
from d2o.metrics.counting import Counted
from d2o.pages import encode_image

from .recipe import TeacherImages

SHARD = 1000
"""Images that are written at once: a run that is killed repeats at most so many."""


def check_teacher(teacher: Denoiser, images: Images, asked: TeacherImages) -> None:
    """Raise a ValueError where there can be no such images."""
    if images.encodings is not None:
        raise ValueError(f"{images.name} is encoded, but the teacher's images are not: name the original images.")
    if asked.guidance != 1:
        Guided(teacher, asked.guidance)


def draw_teacher(
    teacher: Denoiser, images: Images, asked: TeacherImages, run: Path, accelerator: Accelerator, counted: Counted
) -> Images:
    """Return the teacher's images from the directory of a run; those that are missing are made, by all processes.

    Image i is that of seed i, with the class or a caption of an image of the data; all captions take their turns.
    """
    folder = run / f"teacher-images-{asked.count}-{asked.steps}-{asked.guidance:g}"
    mine = range(SHARD * accelerator.process_index, asked.count, SHARD * accelerator.num_processes)
    shards = {folder / f"{first:08d}.tar": range(first, min(first + SHARD, asked.count)) for first in mine}
    missing = {file: seeds for file, seeds in shards.items() if not file.exists()}
    if missing:
        model = teacher if accelerator.device.type == "cpu" else deepcopy(teacher).to(accelerator.device)
        drawn = (batch for file, seeds in missing.items() for batch in write_shard(file, seeds, model, images, asked))
        for _ in counted(drawn, sum(map(len, missing.values())), f"{run}: images of the teacher"):
            pass
    if accelerator.is_main_process and (credits := images.cache.decode.source.attribution):
        (folder / ATTRIBUTION).write_text(credits + "\n")
    accelerator.wait_for_everyone()
    return open_images(folder, num_classes=teacher.num_classes or None, class_names=teacher.class_names)


def write_shard(
    file: Path, seeds: Sequence[int], teacher: Denoiser, images: Images, asked: TeacherImages
) -> Iterator[Tensor]:
    """Write the images of some seeds as a tar shard, whole, and yield their batches."""
    order, told, suffix = permute(len(images), 0), None, ""
    numbers = [int(order[seed % len(images)]) for seed in seeds]
    if teacher.reader is not None:
        turns, texts = [seed // len(images) for seed in seeds], map(images.captions, numbers)
        told, suffix = [known[turn % len(known)] for turn, known in zip(turns, texts, strict=True)], ".txt"
    elif teacher.num_classes and images.labels is not None:
        told, suffix = images.labels[numbers].tolist(), ".cls"
    with atomic(file) as temporary, tarfile.open(temporary, "w") as shard:

        def write(name: str, content: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))

        place = 0
        for batch in generate(teacher, seeds, steps=asked.steps, condition=told, guidance=asked.guidance):
            for pixels in to_uint8(batch, "The teacher"):
                write(f"{seeds[place]:08d}.png", encode_image(pixels))
                if told is not None:
                    write(f"{seeds[place]:08d}{suffix}", str(told[place]).encode())
                place += 1
            yield batch
