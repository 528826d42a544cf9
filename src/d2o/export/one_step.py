"""A denoiser as what users run: one module from unit noise to an image, and how far a copy of it is from the original.

The noise level is fixed, so the four coefficients of preconditioning are four numbers.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from d2o.diffusion.condition import Blend, Text, TextWidth, Words
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import noise_for
from d2o.diffusion.sampling import sample
from d2o.errors import CheckpointError, Diverged

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""How numbers may be stored. Whatever they are stored as, they are computed with in float32."""
TRIALS, TOKENS = 4, 8
"""Images by which a copy is compared with the original, and the tokens that stand for a caption of each."""


@dataclass(frozen=True)
class Options:
    """What an export may be asked for besides its form.

    `dtype` is how weights are stored; `codec` the folder of a latent model's autoencoder, for diffusers. For the web,
    `runtime` is the npm package onnxruntime-web (.tgz or folder), `title` the page's heading, and `teacher` the
    diffusion model that is shown beside it.
    """

    dtype: str = "float32"
    codec: str | None = None
    runtime: str | None = None
    title: str | None = None
    teacher: Denoiser | None = None


class OneStep(nn.Module):
    """G(noise, label) -> image: the denoiser at its `sigma_max`, for unit normal noise [N,C,H,W]."""

    identity: Tensor
    output: Tensor
    scale: Tensor
    time: Tensor
    input_offset: Tensor
    image_offset: Tensor

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.backbone = denoiser.backbone
        self.is_told, self.clip = denoiser.num_classes > 0 or denoiser.reader is not None, denoiser.clip
        self.has_offset = denoiser.preconditioning.offset != 0
        for name, number in compute_step(denoiser).items():
            self.register_buffer(name, torch.tensor(number, dtype=torch.float32))

    def forward(self, noise: Tensor, label: Any = None) -> Tensor:
        """Return images [N,C,H,W]; weights that are stored in half precision are widened first."""
        state = self.backbone.state_dict(keep_vars=True).items()
        tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state}
        x = self.scale * noise
        x = x + self.input_offset if self.has_offset else x
        given = (x, self.time.expand(noise.shape[0]), label if self.is_told else None)
        x0 = self.identity * noise + self.output * functional_call(self.backbone, tensors, given)
        x0 = x0 + self.image_offset if self.has_offset else x0
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)


class BlendedOneStep(OneStep):
    """G(noise, words, other, share) -> image, for captions [N,L] on their way to others by shares [N]."""

    def forward(self, noise: Tensor, words: Tensor, other: Tensor, share: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(noise, Blend(words, other, share))


class Prediction(nn.Module):
    """D(x, sigma, label) -> x0 at any noise levels [N]."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor, label: Any = None) -> Tensor:
        return self.denoiser(x, sigma, label)


class BlendedPrediction(Prediction):
    """D(x, sigma, words, other, share) -> x0, for captions [N,L] on their way to others by shares [N]."""

    def forward(self, x: Tensor, sigma: Tensor, words: Tensor, other: Tensor, share: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, sigma, Blend(words, other, share))


def compute_step(denoiser: Denoiser) -> dict[str, float]:
    """Return the numbers of one step: G(z) = identity * z + output * network(scale * z, time).

    A network of images whose middle is not 0 has two more, which are added to its input and to the image.
    """
    sigma, offset = denoiser.sigma_max, denoiser.preconditioning.offset
    skip, output, scale, time = (c.item() for c in denoiser.preconditioning(torch.tensor(sigma, dtype=torch.float64)))
    numbers = {"identity": skip * sigma, "output": output, "scale": scale * sigma, "time": time}
    return numbers | ({"input_offset": scale * offset, "image_offset": (skip - 1) * offset} if offset else {})


def make_trial(denoiser: Denoiser) -> tuple[Tensor, Any]:
    """Return unit noise and labels, words or what stands for text, to compare with: the same each time."""
    if isinstance(denoiser.vocabulary, TextWidth):
        return noise_for(range(TRIALS), denoiser.image_shape), draw_text(denoiser.backbone)
    if isinstance(denoiser.reader, Words):
        examples = denoiser.reader.examples
        words = denoiser.reader([examples[i % len(examples)] for i in range(TRIALS + 1)])
        return noise_for(range(TRIALS), denoiser.image_shape), Blend(
            words[:-1], words[1:], torch.linspace(0, 1, TRIALS)
        )
    label = torch.arange(TRIALS) * 37 % denoiser.num_classes if denoiser.num_classes else None
    return noise_for(range(TRIALS), denoiser.image_shape), label


def draw_text(network: Any) -> Text:
    """Return random tokens in the place of captions, of the widths that a network of diffusers is told."""
    tokens = noise_for(range(TRIALS), (TOKENS, network.token_width))
    pooled = noise_for(range(TRIALS), (network.pooled_width,)) if network.pooled_width else None
    return Text(tokens, torch.ones(TRIALS, TOKENS, dtype=torch.long), pooled)


def sample_one_step(denoiser: Denoiser, noise: Tensor, label: Any) -> Tensor:
    return sample(lambda x, sigma: denoiser(x, sigma, label), noise, (denoiser.sigma_max, 0.0))


@torch.no_grad()
def compare(denoiser: Denoiser, copy: Callable[[Tensor, Any], Tensor]) -> float:
    """Return the largest difference between the images of the denoiser and of a copy, which span -1 to 1."""
    given = make_trial(denoiser)
    images = sample_one_step(denoiser, *given)
    if not images.isfinite().all():
        raise Diverged("The model makes images with NaN or infinite values")
    return (copy(*given).float() - images).abs().max().item()


def cast(tensors: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Return the tensors stored as `dtype`; one that does not fit is a CheckpointError."""
    small = {n: tensor.to(DTYPES[dtype]) if tensor.is_floating_point() else tensor for n, tensor in tensors.items()}
    for name, tensor in small.items():
        if not bool(tensor.isfinite().all()) and bool(tensors[name].isfinite().all()):
            raise CheckpointError(f"{name} has numbers too large for {dtype}: use --dtype bfloat16 or float32.")
    return small


def cast_module(module: nn.Module, dtype: str) -> nn.Module:
    small: dict[str, Any] = cast(dict(module.state_dict()), dtype)
    module.load_state_dict(small, assign=True)
    return module


@contextmanager
def silence() -> Iterator[None]:
    """Silence libraries whose words are about their own inside."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
