"""D2O's only objective: fool a discriminator, in one step from pure noise (arXiv 2506.09376, section 4)."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from d2o.data.diffaugment import DRAWS, Name, augment
from d2o.diffusion.denoiser import Denoiser
from d2o.discriminators import About
from d2o.records import RECORD, Real, Whole

from .balance import Balance
from .batch import Batch
from .gan import LOSSES, fool_loss, judge_loss, squared_difference, squared_gradient
from .judging import Judging
from .objective import Networks, Step, Turn


@dataclass(frozen=True, config=RECORD)
class Adversarial(Judging):
    """The GAN loss of the student, and the losses of its discriminator: real against fake, and penalties.

    `loss` is a row of LOSSES. `r1` is gamma of the gradient penalty on real images for losses that are means over
    images (the released code's 1e-4 divided by its 64 images per processor), and `r2` that on generated ones; they act
    every `r1_every` iterations, that much stronger, and are exact gradients or finite differences. `centring` is the
    weight of the squared sum of a real and a generated image's logits. `balance` is the decay of the running size by
    which the gradient that reaches the image through each feature network is divided (0.9 in arXiv 2511.22475; see
    `Balance`). With `fresh_fakes` the discriminator's turn draws new noise and runs the student again, as the released
    code does; without, it reuses the generator's images and their features. The student starts from the noise level
    `sigma`, by default the model's own.
    `augmentation` names what is done to real and generated images before they are judged, and `instance_noise` is the
    deviation of the noise that is then added to both (arXiv 1610.04490): nothing fainter tells them apart.
    """

    kind: Literal["adversarial"] = "adversarial"
    weight: Real = 1.0
    loss: Literal["non-saturating", "hinge", "relativistic"] = "non-saturating"
    r1: Annotated[Real, Field(ge=0)] = 1e-4 / 64
    r2: Annotated[Real, Field(ge=0)] = 0.0
    r1_every: Annotated[Whole, Field(ge=1)] = 16
    penalty: Literal["exact", "finite-difference"] = "exact"
    centring: Annotated[Real, Field(ge=0)] = 0.0
    balance: Annotated[Real, Field(ge=0, lt=1)] | None = None
    fresh_fakes: bool = False
    augmentation: tuple[Name, ...] = ()
    instance_noise: Annotated[Real, Field(ge=0)] = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        return ("discriminator", *self.keeps)

    @property
    def keeps(self) -> tuple[str, ...]:
        return () if self.balance is None else ("balance",)

    def build(self, name: str, teacher: Denoiser, student: Denoiser) -> nn.Module:
        return Balance() if name == "balance" else super().build(name, teacher, student)

    def turns(self, networks: Networks) -> Sequence[Turn]:
        rows = {"r1": (self.r1, self.penalise_real), "r2": (self.r2, self.penalise_fake)}
        penalties = [Turn(name, loss, "discriminator", self.r1_every) for name, (gamma, loss) in rows.items() if gamma]
        return (Turn("discriminator", self.discriminator_loss, "discriminator"), *penalties)

    def __call__(self, networks: Networks, batch: Batch) -> Tensor:
        discriminator, student = networks["discriminator"], networks.student
        images = self.show(student, self.make(student, batch), batch)
        seen = self.augment(images, batch, "fake")
        features = discriminator.features(seen, about(batch, "fake"))
        batch.shared["fake features"] = detach(features)
        real = None
        if LOSSES[self.loss].paired:
            batch.shared["real features"] = self.real_features(networks, batch)
            real = discriminator.judge(batch.shared["real features"], batch.condition)
        logits = discriminator.judge(features, batch.condition)
        if self.balance is None:
            return fool_loss(self.loss, logits, real)
        pairs = zip(logits, real or logits, strict=True)
        losses = [fool_loss(self.loss, [rows], [real_rows]) for rows, real_rows in pairs]
        return networks["balance"](losses, seen, self.balance)

    def after(self, networks: Networks, step: Step) -> None:
        if self.balance is not None:
            networks["balance"].settle(self.balance)

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Tensor:
        """Return the discriminator's loss per image [N]: real is judged high, fake low."""
        discriminator, student = networks["discriminator"], networks.student
        fake = batch.shared.pop("fake features", None)
        with torch.no_grad():
            if fake is None or self.fresh_fakes:
                images = self.show(student, self.generate(student, batch, "discriminator"), batch)
                fake = discriminator.features(self.augment(images, batch, "fresh fake"), about(batch, "fresh fake"))
        real = batch.shared.pop("real features", None) or self.real_features(networks, batch)
        low, high = (discriminator.judge(features, batch.condition) for features in (fake, real))
        return judge_loss(self.loss, high, low, self.centring)

    @torch.no_grad()
    def real_features(self, networks: Networks, batch: Batch) -> Any:
        """Return the discriminator's features of the real images."""
        discriminator, is_same = networks["discriminator"], not (self.augmentation or self.instance_noise)
        known = discriminator.caches and is_same and not self.is_random
        images = self.augment(self.show_real(networks.student, batch), batch, "real")
        return discriminator.features(images, about(batch, "real", batch.number if known else None))

    def penalise_real(self, networks: Networks, batch: Batch) -> Tensor:
        """Return R1 per image [N]: gamma / 2 times the squared gradient of the real images' logits."""
        return self.r1 * self.slope(networks, batch, self.show_real(networks.student, batch), "r1")

    def penalise_fake(self, networks: Networks, batch: Batch) -> Tensor:
        """Return R2 per image [N], the same of the student's images."""
        student = networks.student
        with torch.no_grad():
            images = self.show(student, self.generate(student, batch, "generator"), batch)
        return self.r2 * self.slope(networks, batch, images, "r2")

    def slope(self, networks: Networks, batch: Batch, images: Tensor, purpose: str) -> Tensor:
        """Return half the squared gradient [N] of images' logits, as often as the turns are left out."""
        discriminator = networks["discriminator"]

        def judge(images: Tensor) -> list[Tensor]:
            features = discriminator.features(self.augment(images, batch, purpose), about(batch, purpose))
            return discriminator.judge(features, batch.condition)

        if self.penalty == "exact":
            squared = squared_gradient(judge, images)
        else:
            squared = squared_difference(judge, images, batch.noise(f"{purpose} difference", images.shape[1:]))
        return self.r1_every / 2 * squared

    def augment(self, images: Tensor, batch: Batch, purpose: str) -> Tensor:
        if self.augmentation:
            draws = batch.uniform(f"augment {purpose}", DRAWS * len(self.augmentation))
            images = augment(images, self.augmentation, draws)
        if self.instance_noise:
            images = images + self.instance_noise * batch.noise(f"instance noise {purpose}", images.shape[1:])
        return images


def about(batch: Batch, purpose: str, number: Sequence[int] | None = None) -> About:
    return About(batch.condition, number, batch.seeds(f"judge {purpose}"))


def detach(tree: Any) -> Any:
    return tree.detach() if isinstance(tree, Tensor) else [detach(branch) for branch in tree]
