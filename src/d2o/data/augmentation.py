"""Non-leaking augmentation: a label of 9 numbers tells the network how each image was transformed.

Six kinds of geometric transformations (arXiv 2206.00364, appendix F.2), as a pure function of random numbers; images
that are not transformed come back unchanged, bit for bit.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

AUGMENTATION_DIM = 9  # x-flip, y-flip, scale, rotation (cos - 1, sin), anisotropy (2), translation (2)
AUGMENTATION_DRAWS = 14  # uniform numbers per image: 6 choose the kinds, 8 their parameters
SYMLET = (  # the low-pass filter of the wavelet sym6: orthonormal, so that doubling and halving again changes nothing
    0.015404109327027, 0.003490712084217, -0.117990111148191, -0.048311742585633, 0.491055941926747, 0.787641141030194,
    0.337929421727622, -0.072637522786463, -0.021060292512300, 0.044724901770666, 0.001767711864243, -0.007800708325034,
)  # fmt: skip
FIRST = 5  # taps of the filter before its middle


@dataclass(frozen=True)
class Augmentation:
    """Which transformations happen, how often and how far.

    Each kind is drawn with `probability`, independently, the x-flip always; a flip that is drawn is a fair coin.
    Half of all stretches are along the rows, the others along any direction (anisotropy).
    Switch flips and rotation off where they change the meaning, as in digits and text. The deviations are those of the
    exponents of 2 (scale, anisotropy) and of the shift as a share of the image's size (translation).
    """

    probability: float = 0.12
    x_flip: bool = True
    y_flip: bool = True
    scale: bool = True
    rotation: bool = True
    anisotropy: bool = True
    translation: bool = True
    scale_deviation: float = 0.2
    anisotropy_deviation: float = 0.2
    translation_deviation: float = 0.125

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"The augmentation probability must be between 0 and 1, not {self.probability}.")
        deviations = (self.scale_deviation, self.anisotropy_deviation, self.translation_deviation)
        if not all(0 <= deviation < math.inf for deviation in deviations):
            raise ValueError(f"The deviations of the augmentation must not be negative: {deviations}.")


def augment(images: Tensor, random: Tensor, settings: Augmentation = Augmentation()) -> tuple[Tensor, Tensor]:
    """Transform images [N, C, H, W] at random; return them with the label [N, 9] that tells how (0: unchanged).

    `random` [N, 14] is uniform in (0, 1). Borders are mirrored; values may overshoot [-1, 1] a little at sharp edges.
    """
    assert images.ndim == 4 and random.shape == (len(images), AUGMENTATION_DRAWS), (images.shape, random.shape)
    kinds = (settings.y_flip, settings.scale, settings.rotation, settings.anisotropy, settings.translation)
    chances = [settings.x_flip * 1.0, *(kind * settings.probability for kind in kinds)]
    whether, how = random[:, :6] < random.new_tensor(chances), random[:, 6:]
    normal = torch.special.ndtri(how.clamp(1e-7, 1 - 1e-7))
    turn = (how * 2 - 1) * math.pi

    x_flip, y_flip = (how[:, :2] < 0.5).logical_and(whether[:, :2]).unbind(1)
    scale = normal[:, 2] * whether[:, 2]
    angle = turn[:, 3] * whether[:, 3]
    stretch, turned = normal[:, 4] * whether[:, 4], how[:, 5] < 0.5
    direction = (how[:, 5] * 4 - 1) * math.pi * (whether[:, 4] & turned)
    shift = normal[:, 6:8] * whether[:, 5:6]
    rotation, anisotropy = (angle.cos() - 1, angle.sin()), (stretch * direction.cos(), stretch * direction.sin())
    label = torch.stack([x_flip.to(how), y_flip.to(how), scale, *rotation, *anisotropy, *shift.unbind(1)], dim=1)

    moved = torch.where(x_flip[:, None, None, None], images.flip(-1), images)
    moved = torch.where(y_flip[:, None, None, None], moved.flip(-2), moved)
    warped = whether[:, 2:].any(1).nonzero()[:, 0]
    if len(warped):
        zoom = torch.exp2(-settings.scale_deviation * scale)
        squeeze = torch.exp2(-settings.anisotropy_deviation * stretch)
        axes = torch.diag_embed(zoom[:, None] * torch.stack([squeeze, 1 / squeeze], 1))
        # From a point of the result to its origin: undo the stretch and zoom along its direction, then the rotation.
        backward = rotate(angle) @ rotate(-direction) @ axes @ rotate(direction)
        moved[warped] = warp(moved[warped], backward[warped], settings.translation_deviation * shift[warped])
    return moved, label


def rotate(angle: Tensor) -> Tensor:
    """Return matrices [N, 2, 2] that rotate (x, y) by angles [N], clockwise on the screen, where y points down."""
    rows = [angle.cos(), -angle.sin(), angle.sin(), angle.cos()]
    return torch.stack(rows, 1).reshape(-1, 2, 2)


def warp(images: Tensor, backward: Tensor, shift: Tensor) -> Tensor:
    """Look up each pixel of the result at `backward` [N, 2, 2] of its place minus `shift` [N, 2] (in image sizes).

    The look-up happens at twice the resolution, which keeps frequencies that a rotation or zoom creates from folding.
    """
    height, width = images.shape[-2:]
    (up_y, down_y), (up_x, down_x) = (build_doubling(side) for side in (height, width))
    size = backward.new_tensor([width, height])
    # Half the sides, in pixels, of what is looked up and of where: the units of grid_sample.
    seen, known = (size + FIRST) / 2, 3 * (size - 1) / 2
    offset = -(backward @ (shift * size)[:, :, None])
    theta = torch.cat([backward * seen, offset], 2) / known[:, None]
    fine = up_y.to(images) @ images @ up_x.to(images).T
    shape = [*images.shape[:2], down_y.shape[1], down_x.shape[1]]
    places = F.affine_grid(theta.to(images), shape, align_corners=True)
    fine = F.grid_sample(fine, places, mode="bilinear", padding_mode="zeros", align_corners=True)
    return down_y.to(images) @ fine @ down_x.to(images).T


@lru_cache(maxsize=16)
def build_doubling(side: int) -> tuple[Tensor, Tensor]:
    """Return matrices that double a signal of length S and halve another, [6S - 5, S] and [S, 2S + 11].

    The doubled one goes on mirrored (around its first and last value) for S - 1 values on both sides; the halved one
    begins and ends with the values that the filter sees beyond the borders.
    """
    last = side - 1
    beyond = torch.arange(-last, side + last)
    mirrored = last - (last - beyond.abs()).abs()
    up = torch.zeros(6 * side - 5, side, dtype=torch.float64)
    up.index_add_(1, mirrored, 2 * low_pass(torch.arange(-2 * last, 4 * last + 1), beyond))
    return up, low_pass(torch.arange(-FIRST - 1, 2 * side + FIRST), torch.arange(side)).T


def low_pass(fine: Tensor, coarse: Tensor) -> Tensor:
    """Return the filter's weights [len(fine), len(coarse)] between places of two resolutions."""
    taps = torch.tensor(SYMLET, dtype=torch.float64) / 2**0.5
    tap = fine[:, None] - 2 * coarse + FIRST
    return torch.where((tap >= 0) & (tap < len(taps)), taps[tap.clamp(0, len(taps) - 1)], 0.0)
