"""From a stored image to uint8 pixels: nothing is resized, cropped or recoloured unless the user asked for it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .sources import DAMAGED, LFS, Source

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
KINDS = {"1": "grey", "L": "grey", "RGB": "colour", "P": "colour"}  # of the modes that need no decision by the user
CHANNELS = {"grey": 1, "colour": 3}
REMEDY = "add --resolution N --resize center-crop"


def _area(image: Image, resolution: int) -> Image:
    from PIL.Image import Resampling, fromarray

    factor, rest = divmod(image.width, resolution)
    if rest:
        return image.resize((resolution, resolution), Resampling.BOX)
    pixels = np.asarray(image)
    blocks = pixels.reshape(resolution, factor, resolution, factor, -1).sum((1, 3), dtype=np.int64)
    means = (2 * blocks + factor**2) // (2 * factor**2)  # PIL's own reduce is off by one for some factors
    return fromarray(means.astype(np.uint8).reshape(resolution, resolution, *pixels.shape[2:]))


def _bilinear(image: Image, resolution: int) -> Image:
    from PIL.Image import Resampling

    return image.resize((resolution, resolution), Resampling.BILINEAR)


def _lanczos(image: Image, resolution: int) -> Image:
    from PIL.Image import Resampling

    return image.resize((resolution, resolution), Resampling.LANCZOS)


def _center_crop(image: Image, resolution: int) -> Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return _lanczos(image.crop((left, top, left + side, top + side)), resolution)


RESIZE: dict[str, Callable[[Image, int], Image]] = {
    "area": _area,  # the mean of the pixels that fall together; exact for whole factors
    "bilinear": _bilinear,  # antialiased
    "lanczos": _lanczos,  # antialiased, sharpest
    "center-crop": _center_crop,  # the largest centred square, then lanczos
}


class Header(NamedTuple):
    """What is known of an image before its pixels are decoded."""

    name: str
    width: int
    height: int
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
        """The common shape (C, H, W)."""
        side = self.resolution or self.first.width
        return (self.channels or CHANNELS[self.first.kind], side, side)

    def __call__(self, index: int) -> np.ndarray:
        image = open_image(self.source, index, whole=True)
        self.check(header(self.source, index, image))
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # where PIL wants to see it before it is dropped
        image = image.convert("L" if self.shape[0] == 1 else "RGB")
        if self.resize and self.resolution:
            image = RESIZE[self.resize](image, self.resolution)
        return np.asarray(image).reshape(self.shape[1], self.shape[2], self.shape[0])

    def check(self, image: Header) -> None:
        """Raise ValueError if an image does not fit the first one and the options."""
        path, size = self.source.path, f"{image.width}x{image.height}"
        if self.resize is None and image[1:3] != self.first[1:3]:
            raise ValueError(
                f"{path} mixes sizes: {self.first.name} is {self.first.width}x{self.first.height} "
                f"but {image.name} is {size}; {REMEDY}."
            )
        if self.resize != "center-crop" and image.width != image.height:
            raise ValueError(f"{image.name} in {path} is {size}, which is not square; {REMEDY}.")
        if self.resize is None and self.resolution not in (None, image.width):
            wanted = f"{self.resolution}x{self.resolution}"
            raise ValueError(f"{path} holds images of {size}, not {wanted}; add --resize {' or '.join(RESIZE)}.")
        if self.channels is None and image.kind not in CHANNELS:
            raise ValueError(
                f"{image.name} in {path} has the colour mode {image.kind}; "
                "add --channels 3 (colour) or --channels 1 (grey), which drops transparency."
            )
        if self.channels is None and image.kind != self.first.kind:
            raise ValueError(
                f"{path} mixes {self.first.kind} images ({self.first.name}) and {image.kind} images ({image.name}); "
                "add --channels 3 or --channels 1."
            )


def decoder(source: Source, resolution: int | None, resize: str | None, channels: int | None) -> Decoder:
    """Return the decoder of a source; raises ValueError for options that make no sense."""
    if resize is not None and resize not in RESIZE:
        raise ValueError(f"--resize {resize} is unknown; choose {', '.join(RESIZE)}.")
    if resize is not None and resolution is None:
        raise ValueError(f"--resize {resize} needs a size; add --resolution N.")
    if resolution is not None and not 1 <= resolution <= 4096:
        raise ValueError(f"--resolution {resolution} is out of range; choose 1 to 4096.")
    if channels not in (None, 1, 3):
        raise ValueError(f"--channels {channels} is not possible; choose 1 (grey) or 3 (colour).")
    first = header(source, 0, open_image(source, 0))
    made = Decoder(source, first, resolution, resize, channels)
    made.check(first)
    return made


def header(source: Source, index: int, image: Image) -> Header:
    """Return the size and kind of an opened image."""
    kind = KINDS.get(image.mode, image.mode)
    return Header(source.names[index], image.width, image.height, kind)


def _coding(image: Image) -> str:
    """Return PIL's name of the pixels in the file, which tells 16-bit colour from the 8 bits PIL makes of it."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    settings = tiles[0][3]
    return str(settings[0] if isinstance(settings, tuple) else settings)


def open_image(source: Source, index: int, whole: bool = False) -> Image:
    """Open image `index` of a source with PIL, which reads its header, or all of it when `whole`.

    Raises ValueError, naming the image, when it is damaged, too large, or not of 8 bits.
    """
    import PIL.Image

    stored: object = None
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
            deep = image.mode[0] in "IF" or ";16" in _coding(image)
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
