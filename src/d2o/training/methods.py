"""The methods that the paper compares, each a line away from D2O; they know no data set (see `recipes`)."""

from dataclasses import replace

from d2o.discriminators import Convolutional, OwnFeatures, Perceptual, Projected, StyleGAN2
from d2o.objectives import (
    Adversarial,
    Consistency,
    Denoising,
    DistributionMatching,
    Frechet,
    Progressive,
    ReverseConsistency,
    Trajectory,
)

from .freezing import ALL_BUT_NORMS, CONVOLUTIONS, CONVOLUTIONS_AND_QKV, CONVOLUTIONS_QKV_SKIPS, PROJECTIONS_AND_QKV
from .recipe import Recipe, Stages, TeacherImages

USUAL = (0.9, 0.999)
"""Adam's betas where no judge moves with the student."""

D2O = Recipe(objectives=(Adversarial(),))
D2O_F = replace(D2O, frozen=CONVOLUTIONS)
SCRATCH = replace(D2O, pretrained=False)
PRETRAIN = replace(
    SCRATCH,
    objectives=(Denoising(),),
    learning_rate=1e-3,
    betas=USUAL,
    learning_rate_ramp=10_000,
    learning_rate_decay="cosine",
)

BESIDE_THE_GAN = 1 / 64
"""The weight of a distillation objective beside the GAN.

The released code adds up its GAN loss over the 64 images of a processor and averages LPIPS over them.
"""

METHODS: dict[str, Recipe] = {
    "d2o": D2O,
    "d2o-f": D2O_F,
    "scratch": SCRATCH,
    "pretrain": PRETRAIN,
    # A teacher is distilled, alone (by Adam with its usual memory) or beside the GAN.
    "pd": replace(D2O, objectives=(Progressive(),), betas=USUAL, learning_rate_decay="cosine"),
    "cd": replace(D2O, objectives=(Consistency(),), betas=USUAL),
    "ctm": replace(D2O, objectives=(Trajectory(to_zero=0.5),), betas=USUAL),
    "rcd": replace(D2O, objectives=(ReverseConsistency(),), betas=USUAL),
    "pd-gan": replace(D2O, objectives=(Progressive(weight=BESIDE_THE_GAN), Adversarial())),
    "cd-gan": replace(D2O, objectives=(Consistency(weight=BESIDE_THE_GAN), Adversarial())),
    "ctm-gan": replace(D2O, objectives=(Trajectory(weight=BESIDE_THE_GAN, to_zero=0.5), Adversarial())),
    "rcd-gan": replace(D2O, objectives=(ReverseConsistency(weight=BESIDE_THE_GAN), Adversarial())),
    # A second diffusion network learns what the student makes, alone or with a head that judges (DMD2).
    "dmd2": replace(D2O, objectives=(DistributionMatching(),), betas=(0.9, 0.999)),
    "dmd2-gan": replace(D2O, objectives=(DistributionMatching(gan=3e-3),), betas=(0.9, 0.999)),
    # The student's images have the data's moments in a feature space, alone or beside the GAN.
    "frechet": replace(D2O_F, objectives=(Frechet(),)),
    "frechet-gan": replace(D2O_F, objectives=(Frechet(), Adversarial())),
    # More than one step.
    "d2o-2step": replace(D2O, objectives=(Adversarial(middle_sigmas=(0.8,)),)),
    "d2o-f-2step": replace(D2O_F, objectives=(Adversarial(middle_sigmas=(0.8,)),)),
    "d2o-4step": replace(D2O, objectives=(Adversarial(middle_sigmas=(24.0, 5.0, 0.8)),)),
    # Other discriminators and losses.
    "d2o-unprojected": replace(D2O, discriminator=Projected(projection="none")),
    "d2o-channel": replace(D2O, discriminator=Projected(projection="channel")),
    "d2o-stylegan2": replace(  # R1 and learning rate are StyleGAN2-ADA's on CIFAR-10, for equalised weights
        D2O, discriminator=StyleGAN2(), objectives=(Adversarial(r1=0.01),), discriminator_learning_rate=2.5e-3
    ),
    "d2o-perceptual": replace(D2O, discriminator=Perceptual()),
    "d2o-convolutional": replace(D2O, discriminator=Convolutional()),
    "d2o-hinge": replace(D2O, objectives=(Adversarial(loss="hinge"),)),
    # Pairs of real and generated images; the penalties' gammas are a first guess, measured nowhere yet.
    "d2o-relativistic": replace(D2O, objectives=(Adversarial(loss="relativistic", r2=1e-4 / 64),)),
    # The teacher's own features: nearly level with the projected judge in equal seconds (docs/how-to/judges.md).
    "d2o-own-features": replace(D2O, discriminator=OwnFeatures(), objectives=(Adversarial(r1=0.0),)),
    # More or less frozen.
    "d2o-f-conv-qkv": replace(D2O, frozen=CONVOLUTIONS_AND_QKV),
    "d2o-f-qkv": replace(D2O, frozen=PROJECTIONS_AND_QKV),
    "d2o-f-skip": replace(D2O, frozen=CONVOLUTIONS_QKV_SKIPS),
    "d2o-f-all-but-norms": replace(D2O, frozen=ALL_BUT_NORMS),
}

SKETCH = replace(
    D2O_F, objectives=(Consistency(steps=9, target_half_life=0.0),), duration=50_000, batch_size=16, learning_rate=1e-3
)
"""A short distillation before the GAN: few steps of the teacher, and small batches, which are more iterations."""

STAGED: dict[str, Stages] = {
    "sketch-gan": Stages((SKETCH, replace(D2O_F, duration=150_000))),
    "teacher-images": Stages(
        (replace(D2O_F, duration=100_000), replace(D2O_F, duration=100_000, data=TeacherImages()))
    ),
}
"""Methods of several stages."""
