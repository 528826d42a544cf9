"""A reader of captions for the text-to-image networks of diffusers, by the text encoders of their stock pipelines."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass

from d2o.diffusion.condition import EXAMPLES, Caption, Text
from d2o.records import RECORD

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
        from .text_encoders import encode

        different = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
        texts = encode(self.folder, self.network, self.precision, list(different))
        return join(texts)[[different[caption] for caption in captions]]

    def nothing(self, count: int, /) -> Text:
        """Return what the pipeline tells its network for no caption, `count` times."""
        from .text_encoders import encode_nothing

        text = encode_nothing(self.folder, self.network, self.precision)
        return text.map(lambda part: part.expand(count, *part.shape[1:]))

    @property
    def masked(self) -> bool:
        """Whether the network sees no tokens beyond a caption's end; otherwise they depend on the caption, too."""
        from .text_pipelines import PIPELINES

        rows = [row for row in PIPELINES.values() if row.network == self.network]
        return any(row.ragged or row.caption.mask is not None for row in rows)

    def to_spec(self) -> dict[str, Any]:
        """Return the JSON form: which encoders they are, not how they compute."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "precision"}


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
