"""A small convolutional discriminator: one head of the projected one, on the pixels themselves."""

from collections.abc import Sequence
from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.diffusion.condition import Vocabulary
from d2o.features.weights import fix_seed
from d2o.records import RECORD

from .conditions import check_condition
from .discriminator import Discriminator, Positive
from .head import Head

SMALLEST = 8


@dataclass(frozen=True, config=RECORD)
class Convolutional:
    """The small convolutional discriminator as plain numbers; `build` makes the network."""

    kind: Literal["convolutional"] = "convolutional"

    width: Positive = 256
    """Most channels of a layer; the first has 64."""

    synchronise: bool = False
    """Normalise by the batch of all processes together, rather than each by its own."""

    networks: tuple[()] = ()
    """It has no frozen network."""

    def build(
        self, image_shape: Sequence[int], num_classes: Vocabulary = 0, seed: int = 0
    ) -> "ConvolutionalDiscriminator":
        channels, height, width = image_shape
        if height != width or height < SMALLEST:
            remedy = f"use squares of at least {SMALLEST}x{SMALLEST}"
            raise ValueError(f"The discriminator convolutional cannot take {height}x{width} pixels: {remedy}.")
        with fix_seed(seed):
            head = Head(channels, height, 0, self.width, num_classes, self.synchronise)
            return ConvolutionalDiscriminator(head, num_classes)


class ConvolutionalDiscriminator(Discriminator):
    """Judge images [N, C, S, S] in [-1, 1]: logits [N, K], one for each place of the last map."""

    def __init__(self, head: Head, num_classes: Vocabulary = 0) -> None:
        super().__init__()
        self.head, self.num_classes = head, num_classes

    def judge(self, features: Sequence[Sequence[Tensor]], condition: Tensor | None = None) -> list[Tensor]:
        return [self.head(features[0][0], check_condition(condition, self.num_classes)).float()]
