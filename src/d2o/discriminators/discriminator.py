"""What every discriminator is: frozen features of images, and trained heads that judge them."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from d2o.features.cache import Cached
from d2o.records import Whole

Positive = Annotated[Whole, Field(ge=1)]


def check_channels(kind: str, channels: int) -> None:
    """Raise a ValueError for a discriminator whose frozen networks cannot look at images of so many channels."""
    if channels not in (1, 3):
        raise ValueError(
            f"The discriminator {kind} sees images of 1 or 3 channels, not {channels}: let it judge pixels, or take "
            "one that sees latents, --set 'discriminator={kind: stylegan2}' or convolutional."
        )


class About(NamedTuple):
    """What is known of N images besides the images, a row for each.

    Their `condition`; a `number`, which equal images share, given only where there are `caches` and no gradients are
    wanted; and `seeds`, of which all random numbers that are drawn for an image are a function.
    """

    condition: Any = None
    number: Sequence[int] | None = None
    seeds: Sequence[int] | None = None


UNKNOWN = About()


class Discriminator(nn.Module):
    """A network that judges images in two halves, so that the turns of an iteration can share the first.

    One without frozen features returns the images themselves as its features.
    """

    @property
    def caches(self) -> Sequence[Cached]:
        """Where the features of real images are kept, if they are."""
        return ()

    def features(self, images: Tensor, about: About = UNKNOWN) -> list:
        """Return nested lists of features of images [N,C,H,W]; gradients reach the images."""
        return [[images]]

    def judge(self, features: list, condition: Tensor | None = None) -> list[Tensor]:
        """Return logits [N, K], one tensor for each feature network; `condition` [N] is needed if there are classes."""
        raise NotImplementedError

    def forward(self, images: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        return self.judge(self.features(images, About(condition)), condition)
