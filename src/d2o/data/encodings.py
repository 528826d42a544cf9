"""Encodings: latents of images and what a model is told of their captions, computed once and kept in a folder.

encodings.json        whose they are: data, codec, text encoders, shapes, and hashes of all these
nothing.safetensors   what the model is told for no caption
00000.safetensors     a shard: latents of images, their classes and captions, and the tokens of captions that are new
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, StrictInt, StrictStr
from safetensors import safe_open
from torch import Tensor

from d2o.diffusion.condition import EXAMPLES, Text
from d2o.errors import printable
from d2o.files import parse_json, read_bytes, sha256_of
from d2o.records import validate

from .codec import Autoencoder
from .encoders import Encoders, pad
from .source import describe

INDEX, NOTHING = "encodings.json", "nothing.safetensors"
FORMAT = 1
LONGEST_INDEX, LONGEST_HEADER = 1 << 26, 1 << 20  # bytes
CHECKSUM = "crc32"
PRECISIONS = {"half": (torch.float16, torch.bfloat16), "float32": (torch.float32, torch.float32)}
"""Types of numbers of latents, and of tokens: bfloat16 has the range that large text encoders need."""
REMEDY = "run d2o encode again, which replaces it"
Size = Annotated[StrictInt, Field(gt=0, le=1 << 24)]
Hashes = dict[StrictStr, StrictStr]


@dataclass(frozen=True)
class About:
    """Whose encodings a folder has, and how they are kept; `codec` and `encoders` have hashes of their files.

    `shard` is the number of images of a shard, `latent_shape` (c, h, w), and `text_shape` the widths of tokens and of
    pooled text, each 0 where there are none.
    """

    name: StrictStr
    fingerprint: StrictStr
    images: Size
    shape: tuple[Size, Size, Size]
    latent_shape: tuple[Size, Size, Size]
    codec: Autoencoder
    codec_sha256: Hashes
    shard: Size
    precision: Literal["half", "float32"] = "half"
    classes: tuple[StrictStr, ...] = ()
    captioned: bool = False
    encoders: Encoders | None = None
    encoders_sha256: Hashes = field(default_factory=dict)
    text_shape: tuple[StrictInt, StrictInt] = (0, 0)
    format: Literal[1] = FORMAT

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard)


def is_encodings(path: str | Path) -> bool:
    return (Path(path) / INDEX).is_file()
