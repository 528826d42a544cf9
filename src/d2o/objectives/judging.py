"""What a discriminator sees: images decoded from what the student works on, decoded windows of that, or that itself."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.diffusion.denoiser import Codec, Denoiser
from d2o.records import RECORD, Whole

from .batch import Batch
from .one_step import OneStep


@dataclass(frozen=True, config=RECORD)
class Judging(OneStep):
    """An objective whose discriminator is shown the student's images and real ones, both in the same way.

    They are `judged` in pixels, in crops, which are decoded from a random window of `crop` by `crop` latents (by
    default half as high and wide as the image), or as latents. `decoder` is the folder of a tiny autoencoder that takes
    the place of the model's own decoder here: it costs less memory, and what it blurs is blurred in real images, too.
    """

    judged: Literal["pixels", "crops", "latents"] = "pixels"
    crop: Annotated[Whole, Field(ge=1)] | None = None
    decoder: str | None = None

    needs = ("discriminator",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None and self.judged != "crops":
            raise ValueError("crop is the side of crops: set judged to crops, or leave crop out")
        if self.decoder is not None and self.judged == "latents":
            raise ValueError("latents are judged without a decoder: leave it out, or set judged to pixels or crops")

    def prepare(self, student: Denoiser) -> Denoiser:
        """Prepare the student, and check that its images can be shown in this way."""
        student = super().prepare(student)
        if self.judged == "latents" and student.codec is None:
            raise ValueError("The recipe judges latents, but this model works on pixels: leave judged out.")
        self.judged_shape(student)
        self.codec(student)
        return student

    def codec(self, student: Denoiser) -> Codec | Denoiser:
        """Return what decodes latents for the discriminator."""
        if self.decoder is None:
            return student
        from d2o.encoders.codec import decode_through, read_config

        read_config(self.decoder, "--set objectives.0.decoder=FOLDER")
        return decode_through(student, self.decoder)

    def judged_shape(self, student: Denoiser) -> tuple[int, int, int]:
        if self.judged == "latents":
            return student.image_shape
        if self.judged == "pixels":
            return student.pixel_shape
        (channels, height, width), (_, *sides) = student.pixel_shape, student.image_shape
        crop = self.crop or max(min(sides) // 2, 1)
        if crop > min(sides):
            raise ValueError(
                f"The recipe's crops are {crop}x{crop}, but this model's images are {sides[0]}x{sides[1]} before they "
                f"are decoded: name a smaller side with --set objectives.0.crop={max(min(sides) // 2, 1)}."
            )
        return channels, crop * height // sides[0], crop * width // sides[1]

    def settings_of(self, name: str) -> Any:
        """Return what the discriminator sees, where that is not what other objectives expect, whole images."""
        return (self.judged, self.crop) if name == "discriminator" and self.judged != "pixels" else None

    def show(self, student: Denoiser, latents: Tensor, batch: Batch) -> Tensor:
        """Return what the discriminator sees of what the student works on [N,c,h,w]; gradients reach it."""
        if self.judged == "latents":
            return latents
        if self.judged == "crops":
            side = self.crop or max(min(latents.shape[2:]) // 2, 1)
            latents = cut(latents, side, batch.uniform("crop", 2))
        return self.codec(student).decode(latents)

    @torch.no_grad()
    def show_real(self, student: Denoiser, batch: Batch) -> Tensor:
        """Return what the discriminator sees of the real images: of crops the same windows, through the same decoder.

        Whole images in pixels that nothing must decode are shown as they are.
        """
        if self.judged == "pixels" and self.decoder is None:
            return batch.pixels_for(student)
        return self.show(student, batch.latents_for(student), batch)

    @property
    def is_random(self) -> bool:
        """Whether a real image looks otherwise each time, so that its features cannot be cached."""
        return self.judged == "crops"


def cut(images: Tensor, side: int, place: Tensor) -> Tensor:
    """Return a window [N,C,side,side] of each image; `place` [N, 2] in (0, 1) says how far down and right it lies."""
    free = torch.tensor(images.shape[2:], device=images.device) - side
    corners = (place * (free + 1)).long().minimum(free).tolist()
    return torch.stack(
        [image[:, y : y + side, x : x + side] for image, (y, x) in zip(images, corners, strict=True)]
    ).contiguous(memory_format=torch.channels_last)
