"""What text-to-image networks of diffusers are told of captions, by the text encoders of their stock pipelines."""

import dataclasses
import inspect
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.diffusion.condition import EXAMPLES, Caption, Text
from d2o.errors import printable
from d2o.records import RECORD

from .text_pipelines import PIPELINES, Slots, find_device, open_pipeline, silence

AT_ONCE = 16  # captions
USUAL = (
    "a photograph of a red fox in the snow",
    "a bowl of oranges on a wooden table, oil painting",
    "a lighthouse on a cliff at sunset",
    "a bicycle in front of a blue wall",
)
"""Captions to ask for where nobody asks."""


@dataclass(frozen=True, config=RECORD)
class Encoders:
    """A reader of captions by the text encoders of the stock pipeline in `folder`, whose `network` is told.

    They are opened at their first use, once for all copies of this record, in `precision`. What of a caption is beyond
    an encoder's limit is not seen, as in the pipeline; a warning says so.
    """

    folder: str
    network: str
    examples: Annotated[tuple[Caption, ...], Field(min_length=1, max_length=EXAMPLES)] = USUAL
    precision: Literal["float32", "bfloat16"] = "float32"
    kind: Literal["encoders"] = "encoders"

    def __call__(self, captions: Sequence[str]) -> Text:
        """Return what the network is told of captions, on the encoders' device; each different one is encoded once."""
        if not captions:
            raise ValueError("There are no captions to encode: give at least one.")
        pipeline = open_pipeline(self.folder, self.network, self.precision)
        different = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
        asked = list(different)
        warn_of_cuts(pipeline, asked)
        texts = [encode(pipeline, asked[start : start + AT_ONCE]) for start in range(0, len(asked), AT_ONCE)]
        return join(texts)[[different[caption] for caption in captions]]

    def nothing(self, count: int, /) -> Text:
        """Return what the pipeline tells its network for no caption, `count` times."""
        text = encode_nothing(self.folder, self.network, self.precision)
        return text.map(lambda part: part.expand(count, *part.shape[1:]))

    @property
    def masked(self) -> bool:
        """Whether the network sees no tokens beyond a caption's end; otherwise they depend on the caption, too."""
        rows = [row for row in PIPELINES.values() if row.network == self.network]
        return any(row.ragged or row.caption.mask is not None for row in rows)

    def to_spec(self) -> dict[str, Any]:
        """Return the JSON form: which encoders they are, not how they compute."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "precision"}


@lru_cache(maxsize=2)
def encode_nothing(folder: str, network: str, precision: str) -> Text:
    """Return the text [1, ...] of no caption."""
    pipeline = open_pipeline(folder, network, precision)
    nothing = PIPELINES[type(pipeline).__name__].nothing
    return encode(pipeline, [nothing]) if isinstance(nothing, str) else encode(pipeline, [""], nothing)


@torch.no_grad()
def encode(pipeline: Any, captions: list[str], slots: Slots | None = None) -> Text:
    """Return what `encode_prompt` says of captions; with `slots`, what it says beside them of no caption."""
    row = PIPELINES[type(pipeline).__name__]
    known = inspect.signature(pipeline.encode_prompt).parameters
    asked = {"prompt": list(captions), "device": find_device(), "num_images_per_prompt": 1, **row.more(pipeline)}
    asked |= {"do_classifier_free_guidance": slots is not None}
    with silence():
        answer = pipeline.encode_prompt(**{name: value for name, value in asked.items() if name in known})
    tokens, mask, pooled = (None if slot is None else answer[slot] for slot in slots or row.caption)
    return pad(tokens) if row.ragged else Text(tokens, mask, pooled)


def pad(rows: Sequence[Tensor]) -> Text:
    """Return tokens [L_i, E] of captions as a text of the longest, whose mask says which of them count."""
    length = max(map(len, rows))
    mask = torch.stack([torch.arange(length, device=row.device) < len(row) for row in rows]).long()
    return Text(torch.stack([F.pad(row, (0, 0, 0, length - len(row))) for row in rows]), mask)


def join(texts: Sequence[Text]) -> Text:
    """Return the rows of several texts as one, padded to the longest."""
    if len(texts) == 1:
        return texts[0]
    length = max(text.tokens.shape[1] for text in texts)
    tokens = torch.cat([F.pad(text.tokens, (0, 0, 0, length - text.tokens.shape[1])) for text in texts])
    masks = [torch.ones_like(text.tokens[:, :, 0]).long() if text.mask is None else text.mask for text in texts]
    masked = any(text.mask is not None for text in texts) or len({text.tokens.shape[1] for text in texts}) > 1
    mask = torch.cat([F.pad(one, (0, length - one.shape[1])) for one in masks]) if masked else None
    pooled = None if texts[0].pooled is None else torch.cat([text.pooled for text in texts])  # type: ignore[misc]
    return Text(tokens, mask, pooled)


def warn_of_cuts(pipeline: Any, captions: Sequence[str]) -> None:
    """Say which of the captions are longer than a text encoder reads, and by how many tokens."""
    row = PIPELINES[type(pipeline).__name__]
    seen = [row.wrap(pipeline, caption) for caption in captions]
    for tokenizer, limit in zip(("tokenizer", "tokenizer_2", "tokenizer_3"), row.limits(pipeline), strict=False):
        if (count := getattr(pipeline, tokenizer)) is None:
            continue
        with silence():
            cuts = {caption: len(ids) - limit for caption, ids in zip(captions, count(seen).input_ids, strict=True)}
        if (cut := max(cuts.values())) > 0:
            longest, others = max(cuts, key=cuts.__getitem__), sum(one > 0 for one in cuts.values()) - 1
            more = f", and some of {others:,} more captions" if others else ""
            reads = f"A text encoder reads {limit} tokens"
            warnings.warn(printable(f"{reads}: {cut} of {longest[:60]!r} are cut{more}."), stacklevel=3)
