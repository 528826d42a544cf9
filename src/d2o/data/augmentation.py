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
LOBES = 3  # of the Lanczos kernel that doubles the resolution


@dataclass(frozen=True)
class Augmentation:
    """Which transformations happen, how often and how far.

    Each kind is drawn with `probability`, independently, the x-flip always; a flip that is drawn is a fair coin.
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
            raise ValueError(f"The augmentation probability must be from 0 to 1, not {self.probability}.")
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
    stretch, direction = normal[:, 4] * whether[:, 4], turn[:, 5] * whether[:, 4]
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
        backward = rotate(-angle) @ rotate(direction) @ axes @ rotate(-direction)
        moved[warped] = warp(moved[warped], backward[warped], settings.translation_deviation * shift[warped])
    return moved, label


def rotate(angle: Tensor) -> Tensor:
    """Rotate (x, y) by angles [N]: [N, 2, 2], clockwise on the screen, where y points down."""
    rows = [angle.cos(), -angle.sin(), angle.sin(), angle.cos()]
    return torch.stack(rows, 1).reshape(-1, 2, 2)


def warp(images: Tensor, backward: Tensor, shift: Tensor) -> Tensor:
    """Look up each pixel of the result at `backward` [N, 2, 2] of its place minus `shift` [N, 2] (in image sizes).

    The look-up happens at twice the resolution, which keeps frequencies that a rotation or zoom creates from folding.
    """
    height, width = images.shape[-2:]
    size = backward.new_tensor([width, height])  # grid_sample's unit is half the width or height; rotations need pixels
    linear = backward * size[None, :] / size[:, None]
    offset = -(linear @ (2 * shift)[:, :, None])
    (up_y, down_y), (up_x, down_x) = (build_doubling(side) for side in (height, width))
    fine = up_y.to(images) @ images @ up_x.to(images).T
    places = F.affine_grid(torch.cat([linear, offset], 2).to(images), list(fine.shape), align_corners=False)
    fine = F.grid_sample(fine, places, mode="bicubic", padding_mode="reflection", align_corners=False)
    return down_y.to(images) @ fine @ down_x.to(images).T


@lru_cache(maxsize=16)
def build_doubling(side: int) -> tuple[Tensor, Tensor]:
    """Return matrices that double a mirrored signal of length S, and bring it back: [2S, S] and [S, 2S].

    Up is Lanczos interpolation; down is its least-squares inverse, so that up and down again changes nothing.
    """
    fine = (torch.arange(2 * side, dtype=torch.float64) + 0.5) / 2 - 0.5
    coarse = torch.arange(-LOBES - 1, side + LOBES + 1)
    distance = fine[:, None] - coarse[None, :]
    weights = torch.sinc(distance) * torch.sinc(distance / LOBES) * (distance.abs() < LOBES)
    mirrored = coarse % (2 * side)
    mirrored = torch.minimum(mirrored, 2 * side - 1 - mirrored)
    up = torch.zeros(2 * side, side, dtype=torch.float64).index_add_(1, mirrored, weights)
    up /= up.sum(1, keepdim=True)
    return up, torch.linalg.pinv(up)
