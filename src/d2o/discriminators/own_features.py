"""The diffusion network itself as a judge: heads on what a frozen teacher computes from slightly noisy images.

(LADD, arXiv 2403.12015; SANA-Sprint, arXiv 2503.09641.) It sees what the teacher works on, pixels or latents, is told
the condition by the teacher, and costs no feature network: what the student leaves as it is, both hold once.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from math import gcd, isqrt
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from d2o.diffusion.condition import Text, TextWidth
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import noise_for
from d2o.features.frozen import Frozen
from d2o.features.weights import fix_seed
from d2o.kernels.checkpointing import find_blocks
from d2o.kernels.convolution import Convolution
from d2o.kernels.normalisation import GroupNorm
from d2o.records import RECORD, Real

from .conditions import check_condition
from .discriminator import UNKNOWN, About, Discriminator, Positive

MOST = 12
"""How many names an error shows."""
TOKENS = 7
"""The length of the caption with which a network is tried."""


@dataclass(frozen=True, config=RECORD)
class OwnFeatures:
    """The teacher's own features as a discriminator, as plain numbers and names; `build` makes the network."""

    kind: Literal["own-features"] = "own-features"

    taps: tuple[str, ...] = ()
    """Modules of the teacher's network whose outputs are judged, by name; * stands for any part without a dot.

    By default those after a quarter, half, three quarters and all of its blocks. The pass ends at the last."""

    sigma_mean: Real = -1.2
    """The mean of ln(sigma), the level of the noise that is added before the teacher looks."""

    sigma_deviation: Annotated[Real, Field(ge=0)] = 0.6
    """Its standard deviation: every image has a level of its own."""

    width: Positive = 64
    """Channels of a head's layers."""

    kernel: Literal[1, 3, 5] = 3
    """Side of their convolutions: with 1 a head looks at every place by itself."""

    logits: Literal["places", "map"] = "places"
    """A logit for every place of a map, or their mean, one for the map."""

    networks: tuple[()] = ()
    """It has no frozen network but the teacher."""

    needs: ClassVar[tuple[str, ...]] = ("teacher",)
    """The networks of the run that `build` is given by their names."""

    def build(
        self, image_shape: Sequence[int], num_classes: Any = 0, seed: int = 0, *, teacher: Denoiser
    ) -> "OwnFeaturesDiscriminator":
        """Return a new discriminator that looks through a teacher, which is frozen; `seed` fixes the heads' weights.

        ValueError for images that are not what the teacher works on, and for taps that it does not have.
        """
        if tuple(image_shape) != teacher.image_shape:
            wanted, given = ("x".join(map(str, shape)) for shape in (teacher.image_shape, image_shape))
            remedy = "leave judged out" if teacher.codec is None else "use --set objectives.0.judged=latents"
            raise ValueError(f"The model works on {wanted}, so its own features cannot judge {given}: {remedy}.")
        maps = explore(teacher)
        names = find_taps(self.taps, teacher.backbone, maps)
        with fix_seed(seed):
            heads = [Head(maps[name], self.width, self.kernel, self.logits == "map") for name in names]
            return OwnFeaturesDiscriminator(Look(teacher, names), heads, self, num_classes)


class OwnFeaturesDiscriminator(Discriminator):
    """Judge what the teacher works on [N,C,H,W]: logits [N, K], those of all places of the first tap first."""

    def __init__(self, look: "Look", heads: Sequence["Head"], spec: OwnFeatures, num_classes: Any = 0) -> None:
        super().__init__()
        self.look, self.spec, self.num_classes = look, spec, num_classes
        self.heads = nn.ModuleList(heads)

    def features(self, images: Tensor, about: About = UNKNOWN) -> list[list[Tensor]]:
        """Return the teacher's maps of images with noise by their `seeds`, without noise where there are none."""
        shape = (1 + images[0].numel(),)
        draws = images.new_zeros(len(images), *shape)
        if about.seeds is not None:
            draws = noise_for(about.seeds, shape, images.device)
        sigma = (self.spec.sigma_mean + self.spec.sigma_deviation * draws[:, 0]).exp()
        x = images + sigma.view(-1, 1, 1, 1) * draws[:, 1:].reshape(images.shape)
        return [self.look(x, sigma, check_condition(about.condition, self.num_classes))]

    def judge(self, features: Sequence[Sequence[Tensor]], condition: Any = None) -> list[Tensor]:
        del condition  # the teacher has read it
        return [torch.cat([head(fmap) for head, fmap in zip(self.heads, features[0], strict=True)], 1).float()]

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        self.heads.requires_grad_(requires_grad)
        return self


class Head(nn.Sequential):
    """Judge every place of a map [N,C,H,W]: logits [N, H W], or their mean [N, 1].

    Groups of channels are normalised within an image: the batch's statistics would hide what tells real from generated.
    """

    def __init__(self, shape: Sequence[int], width: int, kernel: int = 3, is_mean: bool = False) -> None:
        _, channels, *sides = shape
        kernel = kernel if min(sides) > 1 else 1
        layers = [
            nn.Sequential(
                spectral_norm(Convolution(given, width, kernel, padding=kernel // 2)),
                GroupNorm(gcd(8, width), width),
                nn.LeakyReLU(0.2),
            )
            for given in (channels, width)
        ]
        pool = nn.AdaptiveAvgPool2d(1) if is_mean else nn.Identity()
        super().__init__(*layers, spectral_norm(Convolution(width, 1, 1)), pool, nn.Flatten())


class Enough(Exception):
    """The last tap was reached: nothing behind it need be computed."""


class Look(Frozen):
    """Map (x [N,C,H,W], sigma [N], condition) to what modules of a frozen denoiser give for them, by their names."""

    def __init__(self, denoiser: Denoiser, names: Sequence[str]) -> None:
        super().__init__()
        self.denoiser, self.names = denoiser, names
        self.freeze()

    def forward(self, x: Tensor, sigma: Tensor, condition: Any = None) -> list[Tensor]:
        return look(self.denoiser, self.names, x, sigma, condition)


def look(denoiser: Denoiser, names: Sequence[str], x: Tensor, sigma: Tensor, condition: Any = None) -> list[Tensor]:
    """Return what modules of a denoiser give, by their names; the pass ends when all have."""
    caught: dict[str, Tensor] = {}

    def catch(name: str, fmap: Tensor) -> None:
        caught.setdefault(name, fmap.float())
        if len(caught) == len(names):
            raise Enough

    with watch(denoiser.backbone, names, catch), suppress(Enough):
        denoiser(x.contiguous(memory_format=torch.channels_last), sigma, condition)
    return [caught[name] for name in names]


@contextmanager
def watch(network: nn.Module, names: Iterable[str], catch: Callable[[str, Tensor], Any]) -> Iterator[None]:
    """Within the context, call `catch` with the name of a module and its map whenever it has made one."""

    def call(name: str, output: Any) -> None:
        if (fmap := as_map(output)) is not None:
            catch(name, fmap)

    with ExitStack() as stack:
        for name in names:
            hook = network.get_submodule(name).register_forward_hook(lambda *given, name=name: call(name, given[2]))
            stack.callback(hook.remove)
        yield


def as_map(output: Any) -> Tensor | None:
    """Return what a module gives as a map [N,C,H,W]; None if it is none.

    Tokens [N,L,C] make a square, or else a column. Of several tensors the last one counts: in this order networks give
    those of the caption and of the image.
    """
    if isinstance(output, tuple | list):
        output = next((part for part in reversed(output) if isinstance(part, Tensor)), None)
    if isinstance(output, Tensor) and output.dim() == 3:
        side = isqrt(output.shape[1])
        output = output.transpose(1, 2).unflatten(2, (-1, side if side**2 == output.shape[1] else 1))
    return output if isinstance(output, Tensor) and output.dim() == 4 else None


@torch.no_grad()
def explore(denoiser: Denoiser) -> dict[str, torch.Size]:
    """Return the shapes of the maps of all modules that make any, by name, in the order of a pass."""
    shapes: dict[str, torch.Size] = {}
    names = [name for name, _ in denoiser.backbone.named_modules() if name]
    x = torch.zeros(1, *denoiser.image_shape, device=denoiser.device)
    with watch(denoiser.backbone, names, lambda name, fmap: shapes.setdefault(name, fmap.shape)):
        denoiser(x, 1.0, say_nothing(denoiser))
    return shapes


def say_nothing(denoiser: Denoiser) -> Text | None:
    """Return a condition with which a network can be tried: none, or tokens where it reads text."""
    if not isinstance(denoiser.vocabulary, TextWidth):
        return None
    network: Any = denoiser.backbone
    tokens = torch.zeros(1, TOKENS, network.token_width, device=denoiser.device)
    pooled = tokens.new_zeros(1, network.pooled_width) if network.pooled_width else None
    return Text(tokens, tokens.new_ones(1, TOKENS, dtype=torch.long), pooled)


def find_taps(patterns: Sequence[str], network: nn.Module, maps: Iterable[str]) -> list[str]:
    """Return those of `maps`, modules that make one, which the patterns match; without patterns, four blocks."""
    blocks = list_blocks(network, maps)
    found = set() if patterns else {blocks[-(-len(blocks) * quarter // 4) - 1] for quarter in (1, 2, 3, 4)}
    for pattern in patterns:
        expression = re.escape(pattern).replace(r"\*", "[^.]*")
        matching = {name for name in maps if re.fullmatch(expression, name)}
        if not matching:
            shown = ", ".join(blocks[:MOST]) + (f" and {len(blocks) - MOST} more" if len(blocks) > MOST else "")
            raise ValueError(f"No module that makes a map has the name {pattern!r}: this network's blocks are {shown}.")
        found |= matching
    return [name for name in maps if name in found]


def list_blocks(network: nn.Module, maps: Iterable[str]) -> list[str]:
    """Return those of `maps` that are blocks of the network; where there are none, all."""
    blocks = set(find_blocks(network))
    return [name for name in maps if network.get_submodule(name) in blocks] or list(maps)
