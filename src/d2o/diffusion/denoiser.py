"""A denoiser is D(x, sigma, condition) -> x0: a backbone network inside its preconditioning.

Shapes: N images, C channels, H height, W width. Images are float in [-1, 1], also where the network was trained on
others; `x` is a noisy image, `x0` a clean one, `sigma` the standard deviation of the noise in image units, `condition`
has a row an image, such as its class, or is None.
"""

import inspect
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .condition import Reader, TextWidth, Vocabulary, Words
from .families import Preconditioning


class Codec(Protocol):
    """What stands between pixels and the latent images of some denoisers; gradients pass through both ways."""

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...

    def pixel_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]: ...


class Denoiser(nn.Module):
    """Predict the clean image behind a noisy one, whatever family the network comes from.

    `image_shape` is (C, H, W); `num_classes` is 0 without labels, and `class_names` are empty where they are not known.
    One that is asked in words has a `reader` of captions.
    A denoiser of latent images has a `codec`, not among its weights. With `precision` bfloat16 the backbone runs under
    autocast; weights and sums stay float32. What it rounds is multiplied by the family's `output`: see `amplification`.
    `one_step` says that it was trained to make images in one call, or in a few: then it goes back to noise of
    `middle_sigmas` after its first ones. `judged_by` names the frozen networks of the discriminator that it was trained
    against. With `clip`, predictions are clamped to [-clip, clip], as some schedulers ask for. `provenance` is
    JSON-able, travels with the file, and is for people: code shows it, and does nothing else by it.

    All of these stay as they are made; `replace` makes a denoiser with others.
    """

    def __init__(
        self,
        backbone: nn.Module,
        preconditioning: Preconditioning,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        provenance: dict[str, Any] | None = None,
        *,
        codec: Codec | None = None,
        precision: torch.dtype = torch.float32,
        one_step: bool = False,
        middle_sigmas: tuple[float, ...] = (),
        judged_by: tuple[str, ...] = (),
        class_names: tuple[str, ...] = (),
        clip: float | None = None,
        reader: Reader | None = None,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.backbone, self.preconditioning = backbone, preconditioning
        self.image_shape, self.num_classes = (channels, height, width), num_classes
        self.class_names, self.provenance = class_names, provenance or {}
        self.codec, self.precision = codec, precision
        self.one_step, self.middle_sigmas, self.judged_by = one_step, middle_sigmas, judged_by
        self.clip, self.reader = clip, reader

    def replace(self, **changes: Any) -> "Denoiser":
        """Return a denoiser with some of the constructor's arguments changed; it shares the backbone with this one."""
        return Denoiser(**{name: getattr(self, name) for name in FIELDS} | changes).train(self.training)

    def forward(
        self, x: Tensor, sigma: Tensor | float, condition: Any = None, augmentation: Tensor | None = None
    ) -> Tensor:
        """Return x0 [N,C,H,W] float32 for x [N,C,H,W], sigma [N] or one number, condition of N rows or None."""
        if condition is None and self.reader is not None and (nothing := self.reader.nothing(len(x))) is not None:
            condition = nothing.to(x.device)
        x, offset = x.float(), self.preconditioning.offset
        x = x + offset if offset else x
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(x.shape[0])
        coefficients = self.preconditioning(sigma)
        skip, output, scale = (c.view(-1, 1, 1, 1) for c in coefficients[:3])
        with autocast(x.device, self.precision):
            prediction = self.backbone(scale * x, coefficients.noise, condition, augmentation)
        if not isinstance(prediction, Tensor) or prediction.shape != x.shape:
            raise ValueError(describe_mistake(self.backbone, prediction, x.shape))
        x0 = skip * x + output * prediction.float()
        x0 = x0 - offset if offset else x0
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    @property
    def sigma_max(self) -> float:
        return self.preconditioning.sigma_max

    @property
    def vocabulary(self) -> Vocabulary:
        """How many classes it knows, or words, or how wide the vectors of captions are that it is told."""
        if isinstance(self.reader, Words):
            return self.reader.size
        width = getattr(self.backbone, "text_width", 0)
        return TextWidth(width) if width else self.num_classes

    @property
    def blends(self) -> bool:
        """Whether it is asked in words, and can be told a Blend of two captions."""
        return isinstance(self.reader, Words) and getattr(self.backbone, "blends", False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, or their numbers where it knows no names."""
        return self.class_names or tuple(map(str, range(self.num_classes)))

    @property
    def device(self) -> torch.device:
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of decoded images: `image_shape`, unless the denoiser works on latent ones."""
        return self.image_shape if self.codec is None else self.codec.pixel_shape(self.image_shape)

    def encode(self, images: Tensor) -> Tensor:
        """Return what the denoiser works on [N,C,H,W] for images in pixels."""
        return images if self.codec is None else self.codec.encode(images)

    def decode(self, x0: Tensor) -> Tensor:
        """Return images in pixels for what the denoiser makes [N,C,H,W]."""
        return x0 if self.codec is None else self.codec.decode(x0)


def describe_mistake(backbone: nn.Module, prediction: Any, shape: torch.Size) -> str:
    """Return what is wrong with a network that gives no image, or one of another shape [N,C,H,W]."""
    given = f"shape {list(prediction.shape)}" if isinstance(prediction, Tensor) else f"type {type(prediction).__name__}"
    remedy = "let its forward return the tensor of the prediction alone, without a learned sigma, at the input's size"
    return f"The network {type(backbone).__name__} returns {given} for images {list(shape)}: {remedy}."


FIELDS = tuple(inspect.signature(Denoiser).parameters)


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Keep a network in evaluation mode within the context, and restore the mode of every part."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Return what runs matrix products in bfloat16 where that is the precision; the meta device computes nothing."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)


def use_full_float32() -> None:
    """Switch off the TF32 in which CUDA convolves float32 by default, as EDM and D2O do.

    It holds for the process from here on, as backward passes and other networks come later: whatever loads a model,
    trains, samples or measures begins with it.
    """
    allow_tf32(False)


def allow_tf32(allowed: bool) -> None:
    """Let CUDA round the factors of float32 products and convolutions to 10 bits (TF32), or not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance as a denoiser that wraps a denoiser (arXiv 2207.12598): scale 1 changes nothing.

    A backbone may have `norms`, a function of its predictions: then those of the guided one are the conditional's.
    """

    denoiser: Denoiser
    scale: float

    def __post_init__(self) -> None:
        if not self.denoiser.vocabulary or not math.isfinite(self.scale):
            needs = "a finite scale and a model with classes or captions"
            raise ValueError(f"Guidance of {self.scale} needs {needs}: leave it out.")

    def __call__(self, x: Tensor, sigma: Tensor | float, condition: Any = None) -> Tensor:
        """Return x0 [N,C,H,W], moved away from the prediction without a class."""
        unconditional, conditional = self.denoiser(x, sigma), self.denoiser(x, sigma, condition)
        x0 = unconditional + self.scale * (conditional - unconditional)
        norms = getattr(self.denoiser.backbone, "norms", None)
        if norms is None:
            return x0
        coefficients = self.denoiser.preconditioning(torch.as_tensor(sigma, dtype=x.dtype, device=x.device))
        skip, output = (c.view(-1, 1, 1, 1) for c in coefficients[:2])
        wanted, predicted = ((image - skip * x) / output for image in (conditional, x0))
        return skip * x + output * predicted * norms(wanted) / norms(predicted)
