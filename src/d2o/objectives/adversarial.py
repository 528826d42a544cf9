"""D2O's only objective: fool a discriminator, in one step from pure noise (arXiv 2506.09376, section 4)."""

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import SIGMA_MAX
from d2o.diffusion.sampling import sample
from d2o.pixels.diffaugment import DRAWS, Name, augmented

from .objective import RECORD, Batch, Networks, Real, Whole, detach

LOSSES = {  # of logits that should be high; the generator's hinge loss has no margin
    "non-saturating": (lambda logits: F.softplus(-logits), lambda logits: F.softplus(-logits)),
    "hinge": (lambda logits: F.relu(1 - logits), lambda logits: -logits),
}


@dataclass(frozen=True, config=RECORD)
class Adversarial:
    """The GAN loss of the student, and the two losses of its discriminator: real against fake, and R1.

    `r1` is gamma of the gradient penalty for losses that are means over images (the released code's 1e-4 divided by
    its 64 images per processor); it acts every `r1_every` iterations, that much stronger. With `fresh_fakes` the
    discriminator's turn draws new noise and runs the student again, as the released code does; without, it reuses the
    generator's images and their features. The student starts from the noise level `sigma`, or from the model's largest
    where that is smaller. `augmentation` names what is done to real and generated images before they are judged.
    """

    kind: Literal["adversarial"] = "adversarial"
    weight: Real = 1.0
    loss: Literal["non-saturating", "hinge"] = "non-saturating"
    r1: Annotated[Real, Field(ge=0)] = 1e-4 / 64
    r1_every: Annotated[Whole, Field(ge=1)] = 16
    fresh_fakes: bool = False
    sigma: Annotated[Real, Field(gt=0)] = SIGMA_MAX
    augmentation: tuple[Name, ...] = ()

    needs: ClassVar[tuple[str, ...]] = ("discriminator",)
    dropout: ClassVar[bool] = False

    def __call__(self, networks: Networks, batch: Batch) -> Tensor:
        """Return the generator's loss per image [N]: its images should be judged real."""
        discriminator = networks.discriminator
        assert discriminator is not None
        features = discriminator.features(self.shown(self.generate(networks.student, batch, "generator"), batch, "fake"))
        batch.shared["fake features"] = detach(features)
        _, fool = LOSSES[self.loss]
        return per_image(fool, discriminator.judge(features, batch.label))

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Tensor:
        """Return the discriminator's loss per image [N]: real is judged high, fake low."""
        discriminator = networks.discriminator
        assert discriminator is not None
        fake = batch.shared.pop("fake features", None)
        with torch.no_grad():
            if fake is None or self.fresh_fakes:
                images = self.generate(networks.student, batch, "discriminator")
                fake = discriminator.features(self.shown(images, batch, "fresh fake"))
            real = discriminator.features(self.shown(batch.x0, batch, "real"))
        high, _ = LOSSES[self.loss]
        loss = per_image(lambda logits: high(-logits), discriminator.judge(fake, batch.label))
        return loss + per_image(high, discriminator.judge(real, batch.label))

    def penalty(self, networks: Networks, batch: Batch) -> Tensor:
        """Return R1 per image [N]: gamma / 2 times the squared gradient of the real images' logits."""
        discriminator = networks.discriminator
        assert discriminator is not None
        images = batch.x0.detach().requires_grad_()
        logits = torch.cat([rows.flatten() for rows in discriminator(self.shown(images, batch, "r1"), batch.label)])
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return self.r1_every * self.r1 / 2 * gradient.square().sum((1, 2, 3))

    def shown(self, images: Tensor, batch: Batch, purpose: str) -> Tensor:
        """Return what the discriminator is shown of images: the same, or augmented by the batch's random numbers."""
        if not self.augmentation:
            return images
        draws = batch.uniform(f"augment {purpose}", DRAWS * len(self.augmentation))
        return augmented(images, self.augmentation, draws)

    def generate(self, student: Denoiser, batch: Batch, purpose: str) -> Tensor:
        """Return one-step images of the student [N,C,H,W], in pixels, from the batch's noise."""
        sigmas = (min(self.sigma, student.sigma_max), 0.0)
        noise = batch.noise(purpose, student.image_shape)
        return student.decode(sample(lambda x, sigma: student(x, sigma, batch.label), noise, sigmas))


def per_image(loss, logits: list[Tensor]) -> Tensor:
    """Average a loss over each image's logits [N, K], and add up the feature networks: [N]."""
    return torch.stack([loss(rows).flatten(1).mean(1) for rows in logits]).sum(0)
