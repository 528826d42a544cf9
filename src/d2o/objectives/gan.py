"""What adversaries play for: losses of real and generated logits, and penalties that keep a discriminator smooth."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Logits = Sequence[Tensor]
"""Of each feature network, those of the images [N, K]."""
Judge = Callable[[Tensor], Logits]
"""Images [N, C, H, W] -> logits."""
EPSILON = 0.01
"""The deviation of the noise by which finite differences are taken."""


class Loss(NamedTuple):
    """What the discriminator wants of logits that should be high, and the student of those of its images.

    `paired` losses look at each real image's logits less those of a generated one of the same condition.
    """

    judge: Callable[[Tensor], Tensor]
    fool: Callable[[Tensor], Tensor]
    paired: bool = False


def log_loss(logits: Tensor) -> Tensor:
    return F.softplus(-logits)


LOSSES = {
    "non-saturating": Loss(log_loss, log_loss),
    "hinge": Loss(lambda logits: F.relu(1 - logits), lambda logits: -logits),
    "relativistic": Loss(log_loss, log_loss, paired=True),  # arXiv 2501.05441
}


def judge_loss(name: str, real: Logits, fake: Logits, centring: float = 0.0) -> Tensor:
    """Return the discriminator's loss per image [N]: real is judged high, generated low.

    With `centring` it also keeps the logits near 0, whose level a paired loss leaves open (arXiv 2511.22475).
    """
    loss = LOSSES[name]
    if loss.paired:
        total = mean_per_image(loss.judge, subtract(real, fake))
    else:
        total = mean_per_image(lambda logits: loss.judge(-logits), fake) + mean_per_image(loss.judge, real)
    if not centring:
        return total
    both = [one + other for one, other in zip(real, fake, strict=True)]
    return total + centring * mean_per_image(torch.square, both)


def fool_loss(name: str, fake: Logits, real: Logits | None = None) -> Tensor:
    """Return the student's loss per image [N]; a paired one needs the logits of real images, too."""
    loss = LOSSES[name]
    if not loss.paired:
        return mean_per_image(loss.fool, fake)
    assert real is not None
    return mean_per_image(loss.fool, subtract(fake, real))


def subtract(these: Logits, those: Logits) -> list[Tensor]:
    return [one - other for one, other in zip(these, those, strict=True)]


def mean_per_image(loss: Callable[[Tensor], Tensor], logits: Logits) -> Tensor:
    """Average a loss over each image's logits [N, K], and add up the feature networks: [N]."""
    return torch.stack([loss(rows).flatten(1).mean(1) for rows in logits]).sum(0)


def squared_gradient(judge: Judge, images: Tensor) -> Tensor:
    """Return the squared norm [N] of the gradient of each image's summed logits, to be differentiated again."""
    images = images.detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        total = sum_per_image(judge(images)).sum()
    (gradient,) = torch.autograd.grad(total, images, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def squared_difference(judge: Judge, images: Tensor, noise: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Return the squared slope [N] of each image's summed logits along unit normal `noise`.

    Over the noise its mean is the squared gradient's norm, up to terms of order epsilon^2, without second derivatives:
    so fused attention and checkpointing stay in use (arXiv 2511.22475).
    """
    there, here = (sum_per_image(judge(shown)) for shown in (images + epsilon * noise, images))
    return ((there - here) / epsilon).square()


def sum_per_image(logits: Logits) -> Tensor:
    return torch.stack([rows.flatten(1).sum(1) for rows in logits]).sum(0)
