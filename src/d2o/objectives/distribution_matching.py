"""Distribution matching: the student's images, once noisy, should be as likely as the teacher's (DMD2, 2405.14867).

A second diffusion network, the fake one, learns all the time what the student makes. Where it would restore a noisy
image otherwise than the teacher does, the image moves from what it says to what the teacher says.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from d2o.backbones.backbone import Backbone
from d2o.diffusion.denoiser import Denoiser
from d2o.discriminators.own_features import Head, explore, list_blocks, look
from d2o.features.weights import fix_seed
from d2o.records import RECORD, Real, Whole

from .batch import Batch
from .denoising import Denoising
from .gan import fool_loss, judge_loss
from .objective import Networks, Step, Turn
from .one_step import OneStep
from .teaching import TINY, copy_teacher, levels, per_pixel, pick

STEPS, EDGE = 1000, 20
"""Of the family's noise levels so many, and how many of them are left out at either end."""
IMAGES, TAKEN = "student's images", "fake steps taken"
"""Where a batch keeps what the student's turn has made, and how often the fake network has learned from it."""
LOSS, WIDTH = "non-saturating", 64
"""Of the head."""


@dataclass(frozen=True, config=RECORD)
class DistributionMatching(OneStep):
    """The difference of two denoisers as the gradient of the student's images.

    For an image x that is x_t with noise, it is that of half the squared distance, a mean over the pixels, to
    x - (D_fake(x_t) - D_teacher(x_t)) / mean |x - D_teacher(x_t)|, which counts as fixed. The noise level is one of the
    teacher's 1,000, without the 20 at either end.

    The fake network starts as the teacher. After each of the student's steps it takes `fake_steps` of its own, at the
    rate of discriminators: denoising the student's newest images, with new noise in each. With `gan`, the weight of a
    GAN loss of the student (DMD2 takes 3e-3), a head on the map in its middle learns in the same steps, with the weight
    `head`, to tell these images from real ones, which are as noisy.
    """

    kind: Literal["distribution-matching"] = "distribution-matching"
    weight: Real = 1.0
    fake_steps: Annotated[Whole, Field(ge=1)] = 5
    gan: Annotated[Real, Field(ge=0)] = 0.0
    head: Annotated[Real, Field(ge=0)] = 0.01

    needs = ("teacher", "fake")

    def build(self, name: str, teacher: Denoiser, student: Denoiser) -> nn.Module:
        """Return a frozen copy of the teacher, or one all of whose weights move, with a head if there is a GAN."""
        if name == "teacher":
            return copy_teacher(teacher, student)
        if name != "fake":
            return super().build(name, teacher, student)
        fake = teacher.replace(backbone=deepcopy(teacher.backbone), precision=student.precision, clip=None)
        fake = fake.eval().requires_grad_(True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Judge(fake) if self.gan else fake

    def turns(self, networks: Networks) -> Sequence[Turn]:
        return (Turn("fake", self.fake_loss, "fake", times=self.fake_steps),)

    def __call__(self, networks: Networks, batch: Batch) -> Tensor:
        x = self.make(networks.student, batch)
        batch.shared[IMAGES] = x.detach()
        noisy, sigma = add_noise(x, networks["teacher"], batch, "matching")
        with torch.no_grad():
            teacher, fake = (networks[name](noisy, sigma, batch.condition) for name in ("teacher", "fake"))
            scale = (x - teacher).abs().mean((1, 2, 3), keepdim=True)
            pull = (fake - teacher) / scale.clamp(min=TINY)
        loss = (pull.square() / 2 + pull * (x - x.detach())).mean((1, 2, 3))  # whose gradient is the pull to the bit
        if self.gan:
            loss = loss + self.gan * fool_loss(LOSS, [networks["fake"].judge(noisy, sigma, batch.condition)])
        return loss

    def fake_loss(self, networks: Networks, batch: Batch) -> Tensor:
        """Return the fake network's loss per image [N], with other noise each time that it is asked."""
        batch.shared[TAKEN] = batch.shared.get(TAKEN, 0) + 1
        made = replace(batch, x0=None, latents=batch.shared[IMAGES], seed=batch.seed + batch.shared[TAKEN])
        judge, denoiser = networks["fake"], denoiser_of(networks["fake"])
        loss = Denoising()(Networks(denoiser, denoiser), made)
        if not self.gan:
            return loss
        rows = {"judge fake": made.given, "judge real": batch.latents_for(networks.student)}
        seen = (add_noise(x, networks["teacher"], made, purpose) for purpose, x in rows.items())
        fake, real = (judge.judge(noisy, sigma, batch.condition) for noisy, sigma in seen)
        return loss + self.head * judge_loss(LOSS, [real], [fake])

    def after(self, networks: Networks, step: Step) -> None:
        if isinstance(backbone := denoiser_of(networks["fake"]).backbone, Backbone):
            backbone.constrain_weights()


class Judge(nn.Module):
    """A denoiser with a head that judges noisy images by what it makes of them half way."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        shapes = explore(denoiser)
        self.tap = find_bottleneck(denoiser.backbone, shapes)
        with fix_seed(0):
            self.head = Head(shapes[self.tap], WIDTH)

    def forward(self, x: Tensor, sigma: Tensor, condition: Any = None) -> Tensor:
        return self.denoiser(x, sigma, condition)

    def judge(self, x: Tensor, sigma: Tensor, condition: Any = None) -> Tensor:
        """Return logits [N, K] of x [N,C,H,W], one a place of the map; the pass ends there."""
        return self.head(*look(self.denoiser, [self.tap], x, sigma, condition))


def denoiser_of(fake: nn.Module) -> Any:
    return fake.denoiser if isinstance(fake, Judge) else fake


def find_bottleneck(network: nn.Module, shapes: dict[str, torch.Size]) -> str:
    """Return the middle one of the blocks that make the smallest maps, and of these the ones with most channels."""
    sizes = {name: (shapes[name][2:].numel(), -shapes[name][1]) for name in list_blocks(network, shapes)}
    if not sizes:
        raise ValueError(
            f"No part of {type(network).__name__} makes a map that a head could judge: "
            "leave the GAN out with --set objectives.0.gan=0."
        )
    deepest = [name for name, size in sizes.items() if size == min(sizes.values())]
    return deepest[len(deepest) // 2]


def add_noise(x0: Tensor, teacher: Denoiser, batch: Batch, purpose: str) -> tuple[Tensor, Tensor]:
    """Return images [N,C,H,W] with noise, and its levels [N], drawn evenly from the teacher's without their ends."""
    sigmas = levels(STEPS, None, teacher, x0)[EDGE : -EDGE - 1]
    sigma = sigmas[pick(batch, f"{purpose} level", len(sigmas))]
    return x0 + per_pixel(sigma) * batch.noise(f"{purpose} noise", x0.shape[1:]), sigma
