"""Encode a data set for a model once: latents of its images, and what text encoders say of its captions."""

import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from d2o.diffusion.condition import Text, TextWidth
from d2o.diffusion.denoiser import Denoiser
from d2o.encoders.captions import Encoders
from d2o.encoders.codec import Autoencoder, check_pixels
from d2o.encoders.text_encoders import find_pipeline
from d2o.errors import Diverged
from d2o.files import atomic, check_folder, sha256_of

from .datasets import Images
from .encodings import INDEX, NOTHING, PRECISIONS, About, digest, is_encodings, open_shard, read_about
from .files import to_float

SHARD_BYTES, MOST_IMAGES = 1 << 28, 4096  # of a shard, about
USUAL_TOKENS = 64
"""Tokens of a caption where those beyond its end are not kept, for the size of shards."""
HASHED = (".json", ".safetensors", ".txt", ".model")
"""Files of networks and tokenizers."""
LOCK = ".lock"
CHECKSUM = "crc32"

Counted = Callable[[Iterable[Any], int, str], Iterator[Any]]
"""Passes items on and shows how many there are: (items, their number, a title)."""


def encode(
    denoiser: Denoiser,
    images: Images,
    out: str | Path,
    *,
    batch_size: int = 16,
    precision: str = "half",
    device: torch.device | str = "cpu",
    counted: Counted = lambda items, _total, _title: iter(items),
) -> About:
    """Write the encodings of images for a latent model into a folder, or continue there; return what they are.

    Shards that are whole stay as they are, damaged ones are replaced. Raises ValueError for a folder of other encodings
    or something else, and for a model without a codec.
    """
    folder = check_folder(out)
    about = describe(denoiser, images, precision)
    if is_encodings(folder):
        found = read_about(folder)
        here, wanted = found.identity(), about.identity()
        if other := next((name for name in wanted if here[name] != wanted[name]), None):
            raise ValueError(f"{folder} has encodings for another {other}: choose another directory.")
        about = replace(about, shard=found.shard)
    elif folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir()):
        raise ValueError(f"{folder} exists and has no encodings: choose another directory.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            write_all(denoiser, images, folder, about, batch_size, torch.device(device), counted)
    except Timeout:
        raise ValueError(f"Another d2o encode is running in {folder}: wait for it to finish.") from None
    return about


def describe(denoiser: Denoiser, images: Images, precision: str) -> About:
    """Return whose encodings these images and this model have."""
    check_pixels(denoiser)
    codec, reader = denoiser.codec, denoiser.reader if images.captioned else None
    if not isinstance(codec, Autoencoder) or codec.folder is None or images.encodings is not None:
        what = "the data are encodings already" if images.encodings is not None else "this model has no codec"
        raise ValueError(f"There is nothing to encode, {what}: encode images for a latent model.")
    reader = reader if isinstance(reader, Encoders) else None
    if reader is None and isinstance(denoiser.vocabulary, TextWidth):
        raise ValueError(
            "This model has no text encoders, or the images no captions: give the whole pipeline, and captions."
        )
    numbers = [math.prod(denoiser.image_shape), 0]
    if reader is not None:
        _, length, width = reader.nothing(1).tokens.shape
        numbers[1] = (USUAL_TOKENS if reader.masked else length) * width
    bytes_ = sum(count * kind.itemsize for count, kind in zip(numbers, PRECISIONS[precision], strict=True))
    return About(
        images.name,
        images.fingerprint,
        len(images),
        images.shape,
        denoiser.image_shape,
        max(1, min(SHARD_BYTES // bytes_, MOST_IMAGES)),
        codec,
        hash_files(codec.folder),
        precision,  # type: ignore[arg-type]
        images.labels is not None,
        images.classes,
        images.captioned,
        reader,
        {} if reader is None else hash_files(reader.folder, *find_pipeline(reader.folder, reader.network)[1]),
        images.cache.decode.source.attribution,
    )


def hash_files(folder: str, *parts: str) -> dict[str, str]:
    """Return the SHA-256 of the files of a network, or of these parts of a pipeline, by their names."""
    root = Path(folder)
    files = sorted(file for part in parts or ("",) for file in (root / part).glob("*") if file.is_file())
    return {file.relative_to(root).as_posix(): sha256_of(file) for file in files if file.suffix in HASHED}


def write_all(
    denoiser: Denoiser,
    images: Images,
    folder: Path,
    about: About,
    batch_size: int,
    device: torch.device,
    counted: Counted,
) -> None:
    for leftover in folder.glob(".*"):  # of a process that was killed
        if re.fullmatch(r"\..+-[0-9a-f]{8}\.(safetensors|json)", leftover.name):
            leftover.unlink()
    with atomic(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(about.to_spec(), indent=2) + "\n")
    types = PRECISIONS[about.precision]
    if about.encoders is not None and not is_sound(folder / NOTHING):
        nothing = about.encoders.nothing(1)
        parts = {"tokens": nothing.tokens.to(types[1]), "mask": nothing.mask, "pooled": nothing.pooled}
        write(folder / NOTHING, {name: part for name, part in parts.items() if part is not None})
    known: set[bytes] = set()
    files = [folder / f"{number:05d}.safetensors" for number in range(about.shards)]
    sound = list(counted(map(is_sound, files), len(files), "Shards that are there"))

    def pieces() -> Iterator[range]:
        for number, file in enumerate(files):
            if not sound[number]:
                rows = range(number * about.shard, min((number + 1) * about.shard, about.images))
                yield from encode_shard(denoiser, images, about, file, rows, known, batch_size, device)
            if about.encoders is not None:
                known.update(row.tobytes() for row in open_shard(file).get_tensor("digests").numpy())

    todo = about.images - about.shard * sum(sound[:-1]) - sound[-1] * (about.images - about.shard * (about.shards - 1))
    for _ in counted(pieces(), todo, f"Encoding {about.name}"):
        pass


def encode_shard(
    denoiser: Denoiser,
    images: Images,
    about: About,
    file: Path,
    rows: range,
    known: set[bytes],
    batch_size: int,
    device: torch.device,
) -> Iterator[range]:
    """Write a shard, and yield the images that are done; captions that are `known` are in another one."""
    kinds = PRECISIONS[about.precision]
    latents, captions, texts, new = list[Tensor](), list[list[str]](), list[Text](), dict[bytes, Text]()
    for first in range(rows.start, rows.stop, batch_size):
        part = range(first, min(first + batch_size, rows.stop))
        latents.append(denoiser.encode(to_float(images.pixels(part)).to(device)).cpu().to(kinds[0]))
        if not latents[-1].isfinite().all():
            raise Diverged(f"Latents of the images {part.start} to {part.stop - 1} are not finite")
        if about.captioned:
            captions += [list(images.captions(row)) for row in part]
        if about.encoders is not None:
            asked = {digest(text): text for row in captions[-len(part) :] for text in row}
            asked = {key: text for key, text in asked.items() if key not in known and key not in new}
            texts = split(about.encoders(list(asked.values())), kinds[1]) if asked else []
            new |= dict(zip(asked, texts, strict=True))
        yield part
    tensors = {"latents": torch.cat(latents)}
    if images.labels is not None:
        tensors["labels"] = torch.from_numpy(images.labels[rows.start : rows.stop].astype("int64"))
    if about.captioned:
        tensors |= pack("caption", [as_bytes(json.dumps(row).encode()) for row in captions])
    if about.encoders is not None:
        tensors["digests"] = torch.stack([*map(as_bytes, new)]) if new else torch.empty(0, 16, dtype=torch.uint8)
        tensors |= pack("token", [text.tokens for text in new.values()] or [torch.empty(0, 1)])
        if any(text.pooled is not None for text in new.values()):
            tensors["pooled"] = torch.stack([text.pooled for text in new.values()])  # type: ignore[misc]
    write(file, tensors)


def split(text: Text, kind: torch.dtype) -> list[Text]:
    """Return the tokens [L, E] that count and the pooled vector [P] of each caption."""
    masks = torch.ones_like(text.tokens[:, :, 0]) if text.mask is None else text.mask
    tokens = [row[mask.bool()].cpu().to(kind) for row, mask in zip(text.tokens, masks, strict=True)]
    pooled = [None] * len(tokens) if text.pooled is None else [*text.pooled.cpu().to(kind)]
    return [Text(row, None, one) for row, one in zip(tokens, pooled, strict=True)]


def pack(name: str, rows: list[Tensor]) -> dict[str, Tensor]:
    """Return rows of different lengths one after another, and where each of them ends."""
    ends = torch.tensor([len(row) for row in rows], dtype=torch.int64).cumsum(0)
    return {f"{name}s": torch.cat(rows), f"{name}_ends": ends if rows[0].numel() else ends[:0]}


def as_bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def write(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write a shard with its checksum, completely or not at all."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic(file) as temporary:
        save_file(tensors, temporary, {CHECKSUM: checksum(tensors)})


def checksum(tensors: dict[str, Tensor]) -> str:
    """Return the CRC-32 of tensors with their names, types and shapes."""
    found = 0
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def is_sound(file: Path) -> bool:
    """Return whether a shard is there and has its checksum."""
    try:
        content = open_shard(file)
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (it is no dictionary)
        return (content.metadata() or {}).get(CHECKSUM) == checksum(tensors)
    except (ValueError, SafetensorError):
        return False
