"""From a stored image to uint8 pixels: nothing is resized, cropped or recoloured unless the user asked for it."""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO, NamedTuple

import numpy as np
import PIL.Image
from PIL.Image import Image, Resampling, Transpose

from d2o.errors import describe, printable

from .source import LARGEST, LFS, TIFF, Source

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF")
KINDS = {"1": "grey", "L": "grey", "LA": "grey", "P": "colour", "PA": "colour", "RGB": "colour", "RGBA": "colour"}
"""Of the modes that need no decision by the user, but perhaps one on transparency."""
CHANNELS = {"grey": 1, "colour": 3}
BACKGROUNDS = ("white", "black", "grey")
REMEDY = "add --resolution N --resize center-crop"
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip
"""What sets an image upright, by EXIF's orientation; from 5 on width and height change places."""
ORIENTATION, LONGEST_EXIF = 0x0112, 1 << 16
MOST_PIXELS = {"WEBP": 1 << 25, "AVIF": 1 << 25}  # their decoders keep several copies of an image
MOST_OTHERS = 1 << 26
HEADER, WHOLE, PIECE = 1 << 24, 1 << 28, 1 << 10  # what reading may cost, of a header and of an image, and each time
EXIF = 192  # times as much: each of its entries may refer to all of it
MOST_PASSED = 1 << 31  # pixels times passes of a progressive JPEG, each of which takes a few bytes and goes through all

warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # such images are refused here


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
    alpha: bool


@dataclass(frozen=True)
class Decoder:
    """Turns image i of a source into uint8 [H, W, C] of one common shape, or raises ValueError naming the image."""

    source: Source
    first: Header
    resolution: int | None
    resize: str | None
    channels: int | None
    background: str | None

    @property
    def shape(self) -> tuple[int, int, int]:
        side = self.resolution or self.first.size[0]
        return (self.channels or CHANNELS[self.first.kind], side, side)

    def __call__(self, index: int) -> np.ndarray:
        header, image = open_image(self.source, index, whole=True)
        self.check(header)
        if header.alpha:
            image = flatten(image, self.background)
        mode = "L" if self.shape[0] == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
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
        elif image.kind == "CMYK" and self.channels is None:
            wrong = f"{image.name} has print colours (CMYK); add --channels 3, which uses no colour profile"
        elif image.kind not in (*CHANNELS, "CMYK"):
            wrong = f"{image.name} has the colour mode {image.kind}, which is not converted; save it as RGB or grey"
        elif image.alpha and self.background is None:
            choices = "--background white, black, grey or #rrggbb to show it on that, or --background none to drop it"
            wrong = f"{image.name} has transparency; add {choices}"
        elif self.channels is None and image.kind != first.kind:
            wrong = f"{first.name} is {first.kind} but {image.name} is {image.kind}; add --channels 3 or --channels 1"
        if wrong:
            raise ValueError(f"{self.source.path} cannot be used as it is: {wrong}.")


def flatten(image: Image, background: str | None) -> Image:
    """Show an image on a background: (colour * alpha + background * (255 - alpha)) / 255, rounded to the nearest.

    Of 255ths none lies half-way. On "none", alpha is dropped and leaves the colours beneath.
    """
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    if background in (None, "none"):
        return image.convert("RGB")
    shown = PIL.Image.new("RGB", image.size, background)
    shown.paste(image, mask=image)
    return shown


def make_decoder(
    source: Source, resolution: int | None, resize: str | None, channels: int | None, background: str | None
) -> Decoder:
    """Return the decoder of a source; raises ValueError for options that make no sense."""
    if resize not in (None, *RESIZE):
        raise ValueError(f"--resize {resize} is unknown; choose {', '.join(RESIZE)}.")
    if resize and resolution is None:
        raise ValueError(f"--resize {resize} needs a size; add --resolution N.")
    if resolution is not None and not 1 <= resolution <= 4096:
        raise ValueError(f"--resolution {resolution} is out of range; choose 1 to 4096.")
    if channels not in (None, 1, 3):
        raise ValueError(f"--channels {channels} is not possible; choose 1 (grey) or 3 (colour).")
    if background not in (None, "none", *BACKGROUNDS) and not re.fullmatch("#[0-9a-fA-F]{6}", background):
        raise ValueError(f"--background {background} is not a colour; use {', '.join(BACKGROUNDS)}, #rrggbb or none.")
    first, _ = open_image(source, 0)
    decoder = Decoder(source, first, resolution, resize, channels, background)
    decoder.check(first)
    return decoder


class Pieces:
    """A file as Pillow reads it: of a hostile one it would follow millions of pieces, and keep what it finds.

    Each reading costs its bytes and PIECE, and there is an end of both.
    """

    def __init__(self, file: IO[bytes], budget: int):
        self.file, self.budget, self.seek, self.tell = file, budget, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(LARGEST + 1 if size < 0 else size)
        self.budget -= PIECE + (len(content) if size >= 0 else 0)
        self.budget -= EXIF * len(content) if content.startswith(b"Exif\0") else 0
        if self.budget < 0 or len(content) > LARGEST:
            raise OSError("it has too many or too large parts")
        return content


def open_image(source: Source, index: int, whole: bool = False) -> tuple[Header, Image]:
    """Open image `index` of a source with PIL, which reads its header, or all of it, set upright, when `whole`.

    Raises ValueError, naming the image, when it is damaged, too large, or not of 8 bits, or more than one.
    """
    name = source.image(index)
    try:
        stored = source.open(index)
        if isinstance(stored, np.ndarray):
            image = PIL.Image.fromarray(stored[..., 0] if stored.shape[-1] == 1 else stored)
            return make_header(source, index, image, 1), image
        with stored:
            start = stored.read(len(LFS))
            if start == LFS:
                raise OSError("it is a git-LFS pointer: run `git lfs pull`")
            stored.seek(0)
            content = stored.read(LARGEST + 1) if whole else b""
            if len(content) > LARGEST:
                raise OSError(f"it is larger than {LARGEST:,} bytes")
            pieces = Pieces(io.BytesIO(content) if whole else stored, HEADER >> 4 if start[:2] in TIFF else HEADER)
            image = PIL.Image.open(pieces, formats=FORMATS)  # pyright: ignore[reportArgumentType]
            wrong = find_fault(image, content.count(b"\xff\xda"))
            pieces.budget = WHOLE
            if whole and not wrong:
                image.load()
            orientation = 1 if wrong else find_orientation(image)
            header = make_header(source, index, image, orientation)
            if whole and orientation in UPRIGHT:
                image = image.transpose(UPRIGHT[orientation])
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"{name} is damaged or not one of {', '.join(FORMATS)}; remove it.") from error
    except Exception as error:  # Pillow's are of many kinds
        raise ValueError(f"{name} cannot be read ({describe(error)}); remove or repair it.") from error
    if wrong:
        raise ValueError(f"{name} {wrong}.")
    return header, image


def find_fault(image: Image, passes: int) -> str | None:
    """Return what forbids decoding an image of which the header is read, and what to do."""
    pixels, format = image.width * image.height, image.format or ""
    if pixels > MOST_PIXELS.get(format, MOST_OTHERS):
        return f"has {image.width}x{image.height} pixels, more than is safe to unpack; shrink it"
    if pixels * passes > MOST_PASSED:
        return f"stores its pixels in {passes} passes; save it again"
    if image.mode[0] in "IF" or ";16" in str(getattr(image, "tile", "")):  # PIL makes 8 bits of 16-bit colour, silently
        return "does not have 8 bits per channel; convert it to 8 bits"
    if format != "MPO" and getattr(image, "is_animated", False):  # MPO is a JPEG with previews behind it
        return "has more than one frame; save each frame that you want as a file"
    return None


def find_orientation(image: Image) -> int:
    """Return EXIF's orientation of an image, which PIL applies to a TIFF by itself."""
    if image.format == "TIFF":
        return 1
    texts = (image.info.get(key, "") for key in ("exif", "Raw profile type exif"))
    if any(len(text) > LONGEST_EXIF for text in texts):
        raise OSError("its EXIF data are too long")
    return PIL.Image.Image.getexif(image).get(ORIENTATION, 1)  # a PNG's own method would decode all of it


def make_header(source: Source, index: int, image: Image, orientation: int) -> Header:
    width, height = reversed(image.size) if orientation in (5, 6, 7, 8) else image.size
    return Header(
        printable(source.names[index]), (width, height), KINDS.get(image.mode, image.mode), image.has_transparency_data
    )
