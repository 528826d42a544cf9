"""From a stored image to uint8 pixels: nothing is resized, cropped or recoloured unless the user asked for it."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL.Image import Image, Resampling

from .source import DAMAGED, LFS, Source

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
KINDS = {"1": "grey", "L": "grey", "RGB": "colour", "P": "colour"}  # of the modes that need no decision by the user
CHANNELS = {"grey": 1, "colour": 3}
REMEDY = "add --resolution N --resize center-crop"


def resize_area(image: Image, side: int) -> Image:
    """Average the pixels that fall together, rounding halves up where their number is whole."""
    factor, rest = divmod(image.width, side)
    if rest:
        return resize(Resampling.BOX, image, side)
    pixels = np.asarray(image)
    blocks = pixels.reshape(side, factor, side, factor, -1).sum((1, 3), dtype=np.int64)
    means = (2 * blocks + factor**2) // (2 * factor**2)  # PIL's own reduce is off by one for some factors
    return PIL.Image.fromarray(means.astype(np.uint8).reshape(side, side, *pixels.shape[2:]))


def resize(filter: Resampling, image: Image, side: int) -> Image:
    return image.resize((side, side), filter)


def crop_centre(image: Image, side: int) -> Image:
    """Resize the largest centred square."""
    smaller = min(image.size)
    left, top = (image.width - smaller) // 2, (image.height - smaller) // 2
    return resize(Resampling.LANCZOS, image.crop((left, top, left + smaller, top + smaller)), side)


RESIZE: dict[str, Callable[[Image, int], Image]] = {
    "area": resize_area,
    "bilinear": partial(resize, Resampling.BILINEAR),
    "lanczos": partial(resize, Resampling.LANCZOS),
    "center-crop": crop_centre,
}


class Header(NamedTuple):
    name: str
    size: tuple[int, int]  # width, height
    kind: str  # grey, colour, or PIL's name of another mode


@dataclass(frozen=True)
class Decoder:
    """Turns image i of a source into uint8 [H, W, C] of one common shape, or raises ValueError naming the image."""

    source: Source
    first: Header
    resolution: int | None
    resize: str | None
    channels: int | None

    @property
    def shape(self) -> tuple[int, int, int]:
        side = self.resolution or self.first.size[0]
        return (self.channels or CHANNELS[self.first.kind], side, side)

    def __call__(self, index: int) -> np.ndarray:
        image = open_image(self.source, index, whole=True)
        self.check(read_header(self.source, index, image))
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # where PIL wants to see it before it is dropped
        image = image.convert("L" if self.shape[0] == 1 else "RGB")
        if self.resize and self.resolution:
            image = RESIZE[self.resize](image, self.resolution)
        return np.asarray(image).reshape(self.shape[1], self.shape[2], self.shape[0])

    def check(self, image: Header) -> None:
        """Raise ValueError if an image does not fit the first one and the options."""
        first, (width, height) = self.first, image.size
        here, there = (f"{one.name} is {one.size[0]}x{one.size[1]}" for one in (image, first))
        wrong = None
        if self.resize is None and image.size != first.size:
            wrong = f"{there} but {here}; {REMEDY}"
        elif self.resize != "center-crop" and width != height:
            wrong = f"{here}, which is not square; {REMEDY}"
        elif self.resize is None and self.resolution not in (None, width):
            wrong = f"{here}, not {self.resolution}x{self.resolution}; add --resize {' or '.join(RESIZE)}"
        elif self.channels is None and image.kind not in CHANNELS:
            wrong = f"{image.name} has the colour mode {image.kind}; add --channels 3 or 1, which drops transparency"
        elif self.channels is None and image.kind != first.kind:
            wrong = f"{first.name} is {first.kind} but {image.name} is {image.kind}; add --channels 3 or --channels 1"
        if wrong:
            raise ValueError(f"{self.source.path} cannot be used as it is: {wrong}.")


def make_decoder(source: Source, resolution: int | None, resize: str | None, channels: int | None) -> Decoder:
    """Return the decoder of a source; raises ValueError for options that make no sense."""
    if resize not in (None, *RESIZE):
        raise ValueError(f"--resize {resize} is unknown; choose {', '.join(RESIZE)}.")
    if resize and resolution is None:
        raise ValueError(f"--resize {resize} needs a size; add --resolution N.")
    if resolution is not None and not 1 <= resolution <= 4096:
        raise ValueError(f"--resolution {resolution} is out of range; choose 1 to 4096.")
    if channels not in (None, 1, 3):
        raise ValueError(f"--channels {channels} is not possible; choose 1 (grey) or 3 (colour).")
    first = read_header(source, 0, open_image(source, 0))
    decoder = Decoder(source, first, resolution, resize, channels)
    decoder.check(first)
    return decoder


def read_header(source: Source, index: int, image: Image) -> Header:
    return Header(source.names[index], image.size, KINDS.get(image.mode, image.mode))


def open_image(source: Source, index: int, whole: bool = False) -> Image:
    """Open image `index` of a source with PIL, which reads its header, or all of it when `whole`.

    Raises ValueError, naming the image, when it is damaged, too large, or not of 8 bits.
    """
    try:
        stored = source.open(index)
        if isinstance(stored, np.ndarray):
            return PIL.Image.fromarray(stored[..., 0] if stored.shape[-1] == 1 else stored)
        with stored:
            start = stored.read(len(LFS))
            if start == LFS:
                raise OSError("it is a git-LFS pointer: run `git lfs pull`")
            stored.seek(0)
            image = PIL.Image.open(io.BytesIO(stored.read()) if whole else stored, formats=FORMATS)
            if image.width * image.height > (PIL.Image.MAX_IMAGE_PIXELS or 2**27):
                raise OSError(f"{image.width}x{image.height} pixels are more than is safe to unpack")
            deep = image.mode[0] in "IF" or ";16" in str(image.tile)  # PIL makes 8 bits of 16-bit colour, silently
            if whole:
                image.load()
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"{source.image(index)} is damaged or not one of {', '.join(FORMATS)}; remove it.") from error
    except (*DAMAGED, ValueError, PIL.Image.DecompressionBombError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{source.image(index)} cannot be read ({reason}); remove or repair it.") from error
    if deep:
        raise ValueError(f"{source.image(index)} does not have 8 bits per channel; convert it to 8 bits.")
    return image
