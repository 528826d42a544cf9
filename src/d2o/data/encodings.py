"""Encodings: latents of images and what a model is told of their captions, computed once and kept in a folder.

encodings.json        whose they are: the data, the codec and the text encoders, with hashes of their files
nothing.safetensors   what the model is told for no caption
00000.safetensors     a shard: latents of images, their classes and captions, and the tokens of captions that are new
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, StrictBool, StrictInt, StrictStr
from safetensors import safe_open
from torch import Tensor

from d2o.diffusion.condition import EXAMPLES, Text, pad
from d2o.diffusion.denoiser import Denoiser
from d2o.encoders.captions import Encoders
from d2o.encoders.codec import Autoencoder
from d2o.files import open_regular, parse_json, read_bytes, sha256_of
from d2o.records import validate

from .files import to_uint8
from .source import Captions, Source, name_damage

INDEX, NOTHING = "encodings.json", "nothing.safetensors"
LONGEST_INDEX, LONGEST_HEADER = 1 << 26, 1 << 20  # bytes
PRECISIONS = {"half": (torch.float16, torch.bfloat16), "float32": (torch.float32, torch.float32)}
"""Types of latents and of tokens; bfloat16 has the range that large text encoders need."""
REMEDY = "run d2o encode again, which replaces it"
Size = Annotated[StrictInt, Field(gt=0, le=1 << 32)]
Shape = tuple[Size, Size, Size]
Hashes = dict[StrictStr, StrictStr]


@dataclass(frozen=True)
class About:
    """Whose encodings a folder has; hashes are of the files of its codec and text encoders, by name.

    `shard` is the number of images of a shard. In "half" precision latents are float16, with errors of up to 1/2048 of
    their size, and tokens bfloat16, up to 1/256.
    """

    name: StrictStr
    fingerprint: StrictStr
    images: Annotated[StrictInt, Field(gt=0, le=1 << 26)]
    shape: Shape
    latent_shape: Shape
    shard: Size
    codec: Autoencoder
    codec_sha256: Hashes
    precision: Literal["half", "float32"] = "half"
    labelled: StrictBool = False
    classes: tuple[StrictStr, ...] = ()
    captioned: StrictBool = False
    encoders: Encoders | None = None
    encoders_sha256: Hashes = field(default_factory=dict)
    attribution: StrictStr = ""
    format: Literal[1] = 1

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard)

    def to_spec(self) -> dict[str, Any]:
        """Return the JSON form."""
        encoders = None if self.encoders is None else self.encoders.to_spec()
        return json.loads(json.dumps({**asdict(self), "codec": self.codec.to_spec(), "encoders": encoders}))

    def identity(self) -> dict[str, Any]:
        """Return what encodings of the same images for the same model have in common, wherever these lie."""
        spec = {name: value for name, value in self.to_spec().items() if name not in ("name", "shard", "attribution")}
        network = None if self.encoders is None else self.encoders.network
        return {**spec, "codec": {**spec["codec"], "folder": None}, "encoders": network}


def is_encodings(path: Any) -> bool:
    return isinstance(path, str | Path) and (Path(path) / INDEX).is_file()


def read_about(path: Path) -> About:
    try:
        return validate(About, parse_json(read_bytes(path / INDEX, LONGEST_INDEX)), "its description")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path / INDEX} cannot be read ({error}): remove the folder and run d2o encode again."
        ) from error


def digest(caption: str) -> bytes:
    return sha256(caption.encode(errors="surrogatepass")).digest()[:16]


def open_shard(file: Path) -> Any:
    """Open a safetensors file; what is wrong with it is a ValueError that names it."""
    with name_damage(file, REMEDY):
        with open_regular(file) as start:
            if int.from_bytes(start.read(8), "little") > LONGEST_HEADER:
                raise OSError("its header is too long")
        return safe_open(file, framework="pt")


class Encodings:
    """The encodings in a folder: latents by the number of an image, texts by captions; nothing is kept in memory."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.about = Path(path), read_about(Path(path))
        self.open = lru_cache(maxsize=64)(open_shard)
        files = chain([self.path / NOTHING] if self.about.encoders else [], map(self.file, range(self.about.shards)))
        if missing := next((file for file in files if not file.is_file()), None):
            raise ValueError(f"{self.path} is not complete, it lacks {missing.name}: run d2o encode again to continue.")
        parts = [self.check(number) for number in range(self.about.shards)]
        self.labels = np.concatenate([labels for labels, _ in parts]) if self.about.labelled else None
        self.starts = np.cumsum([0, *(len(digests) for _, digests in parts)])
        keys = np.concatenate([digests for _, digests in parts])  # two numbers of 64 bits, the first of which is sorted
        self.order = np.argsort(keys[:, 0], kind="stable")
        self.keys = keys[self.order]

    def file(self, shard: int) -> Path:
        return self.path / f"{shard:05d}.safetensors"

    def check(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels [n] and the digests of captions [m, 2] of a shard; ValueError for one of other shapes."""
        about, file = self.about, self.file(shard)
        content = open_shard(file)
        with name_damage(file, REMEDY):
            count = min(about.shard, about.images - shard * about.shard)
            wanted: dict[str, list[int]] = {"latents": [count, *about.latent_shape]}
            wanted |= {"labels": [count]} if about.labelled else {}
            wanted |= {"caption_ends": [count]} if about.captioned else {}
            shapes = {name: content.get_slice(name).get_shape() for name in wanted}
            if shapes != wanted:
                raise ValueError(f"it has tensors of shapes {shapes}, not {wanted}")
            labels = content.get_tensor("labels").long().numpy() if about.labelled else np.empty(0, np.int64)
            if about.labelled and not (labels.min() >= 0 and labels.max() < len(about.classes)):
                raise ValueError("its labels are not those of the classes")
            keys = content.get_tensor("digests").numpy() if about.encoders else np.empty((0, 16), np.uint8)
            if about.encoders and content.get_slice("token_ends").get_shape() != [len(keys)]:
                raise ValueError("its captions do not fit their tokens")
            return labels, np.ascontiguousarray(keys.reshape(-1, 16)).view("<u8")

    def read(self, name: str, shard: int, first: int, last: int) -> Tensor:
        """Return rows of a tensor of a shard."""
        content = self.open(self.file(shard))
        with name_damage(self.file(shard), REMEDY):
            rows = content.get_slice(name)[first:last]
            if len(rows) != last - first:
                raise ValueError(f"it has too few rows of {name}")
            return rows

    def span(self, name: str, shard: int, row: int) -> tuple[int, int]:
        """Return where the part of a row begins and ends in a shard's tensor, by its ends."""
        ends = self.read(name, shard, max(row - 1, 0), row + 1).tolist()
        return (ends[0] if row else 0), ends[-1]

    def latents(self, numbers: Iterable[int]) -> Tensor:
        """Return the latents of images [n, c, h, w] in float32."""
        places = (divmod(int(number), self.about.shard) for number in numbers)
        return torch.cat([self.read("latents", shard, row, row + 1) for shard, row in places]).float()

    def captions(self, number: int) -> list[str]:
        shard, row = divmod(number, self.about.shard)
        part = self.read("captions", shard, *self.span("caption_ends", shard, row))
        with name_damage(self.file(shard), REMEDY):
            return parse_json(part.numpy().tobytes())

    def find(self, captions: Sequence[str]) -> list[int]:
        """Return which of all texts are those of the captions, -1 for unknown ones."""
        wanted = np.frombuffer(b"".join(map(digest, captions)), "<u8").reshape(-1, 2)
        places = np.searchsorted(self.keys[:, 0], wanted[:, 0]).clip(max=max(len(self.keys) - 1, 0))
        known = (self.keys[places] == wanted).all(1) if len(self.keys) else np.zeros(len(wanted), bool)
        return np.where(known, self.order[places] if len(self.keys) else -1, -1).tolist()

    def text(self, rows: Iterable[int]) -> Text:
        """Return texts in float32: padded to the longest where the network is masked, and else whole."""
        tokens, pooled = [], []
        for row in rows:
            shard = int(np.searchsorted(self.starts, row, side="right")) - 1
            place = row - int(self.starts[shard])
            tokens.append(self.read("tokens", shard, *self.span("token_ends", shard, place)).float())
            if self.has_pooled:
                pooled.append(self.read("pooled", shard, place, place + 1).float())
        assert self.about.encoders is not None
        text = pad(tokens) if self.about.encoders.masked else Text(torch.stack(tokens))
        return replace(text, pooled=torch.cat(pooled) if pooled else None)

    @cached_property
    def nothing(self) -> Text:
        """What the model is told for no caption [1, ...]."""
        file = self.path / NOTHING
        content = open_shard(file)
        with name_damage(file, REMEDY):
            found = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (a file is no dictionary)
            pooled = found.get("pooled")
            return Text(found["tokens"].float(), found.get("mask"), None if pooled is None else pooled.float())

    @property
    def has_pooled(self) -> bool:
        return self.nothing.pooled is not None

    def attach(self, denoiser: Denoiser) -> Denoiser:
        """Return a model that is told the captions here without its text encoders; ValueError for another model's."""
        about, codec, reader = self.about, denoiser.codec, denoiser.reader
        what = None
        if not isinstance(codec, Autoencoder) or codec.folder is None:
            what = "autoencoder"
        elif denoiser.image_shape != about.latent_shape:
            what = f"shape, {list(about.latent_shape)}, not {list(denoiser.image_shape)},"
        elif {**codec.to_spec(), "folder": ""} != {**about.codec.to_spec(), "folder": ""}:
            what = "scale of latents"
        elif has_changed(codec.folder, about.codec_sha256):
            what = "autoencoder"
        elif isinstance(reader, Encoders) and about.encoders is not None:
            if reader.network != about.encoders.network:
                what = f"network, {about.encoders.network},"
            elif has_changed(reader.folder, about.encoders_sha256):
                what = "text encoder"
        if what is not None:
            remedy = "run d2o encode with this model into another folder"
            raise ValueError(f"{self.path} has encodings of another {what} than the model's: {remedy}.")
        return denoiser.replace(reader=Remembered(reader, self)) if isinstance(reader, Encoders) else denoiser


def has_changed(folder: str, hashes: Hashes) -> bool:
    """Return whether a file has another hash than it had; one that is gone has not."""
    files = {Path(folder) / name: value for name, value in hashes.items()}
    return any(file.is_file() and sha256_of(file) != value for file, value in files.items())


class Remembered:
    """A reader that takes captions from encodings, and asks the text encoders for others alone."""

    def __init__(self, encoders: Encoders, encodings: Encodings) -> None:
        number = encodings.about.images
        chosen = range(0, number, max(1, -(-number // EXAMPLES)))
        examples = tuple(dict.fromkeys(encodings.captions(one)[0] for one in chosen))
        self.encoders, self.encodings = replace(encoders, examples=examples), encodings

    @property
    def examples(self) -> Sequence[str]:
        return self.encoders.examples

    def __call__(self, captions: Sequence[str], /) -> Text:
        rows = self.encodings.find(captions)
        return self.encodings.text(rows) if rows and min(rows) >= 0 else self.encoders(captions)

    def nothing(self, count: int, /) -> Text:
        return self.encodings.nothing.map(lambda part: part.expand(count, *part.shape[1:]))

    def to_spec(self) -> dict[str, Any]:
        return self.encoders.to_spec()

    def __deepcopy__(self, _memo: Any) -> "Remembered":
        return self  # files are opened once for student, average and teacher


class Decoded:
    """Turns the latents of image i into uint8 pixels [H, W, C], as a Decoder does with encoded files."""

    def __init__(self, encodings: Encodings, codec: Any) -> None:
        about = encodings.about
        self.encodings, self.codec, self.shape = encodings, codec, about.shape
        captions = Captions("encodings", encodings.captions) if about.captioned else None
        names: Any = range(about.images)  # numbers are names enough, and take no memory
        told = {"captions": captions, "attribution": about.attribution}
        self.source = Source(str(encodings.path), names, self, encodings.labels, **told)

    @torch.no_grad()
    def __call__(self, index: int) -> np.ndarray:
        return to_uint8(self.codec.decode(self.encodings.latents([index])))[0]
