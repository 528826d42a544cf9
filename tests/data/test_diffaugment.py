"""Differentiable augmentation: known draws by hand, independence of the batch, and gradients."""

import pytest
import torch

from d2o.data.diffaugment import AUGMENTATIONS, DRAWS, augment
from d2o.diffusion.noise import noise_for, uniform_for

IMAGES = noise_for(range(3), (2, 8, 8)).clamp(-1, 1)
MIDDLE = torch.full((3, DRAWS), 0.5)


def test_draws_in_the_middle_leave_color_and_place_alone():
    torch.testing.assert_close(augment(IMAGES, ("color", "translation"), MIDDLE.repeat(1, 2)), IMAGES)


def test_no_augmentation_is_none():
    assert augment(IMAGES, (), torch.empty(3, 0)) is IMAGES


@pytest.mark.parametrize(("draw", "rows"), [(0.0, -1), (0.5, 0), (0.999, 1)])
def test_translation_moves_whole_pixels_and_fills_with_black(draw, rows):
    moved = augment(IMAGES, ("translation",), torch.tensor([[draw, 0.5, 0.0]] * 3))
    # shifted by -1 the new row i is the old row i - 1
    expected = torch.roll(IMAGES, -rows, 2)
    if rows:
        expected[:, :, -1 if rows > 0 else 0] = -1
    assert torch.equal(moved, expected)


def test_color_by_hand():
    brighter = augment(IMAGES, ("color",), torch.tensor([[1.0, 0.5, 0.5]] * 3))
    torch.testing.assert_close(brighter, IMAGES + 0.5)
    grey = augment(IMAGES, ("color",), torch.tensor([[0.5, 0.0, 0.5]] * 3))
    torch.testing.assert_close(grey, IMAGES.mean(1, keepdim=True).expand_as(IMAGES))
    flat = augment(IMAGES, ("color",), torch.tensor([[0.5, 0.5, 0.0]] * 3))
    mean = IMAGES.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(flat, mean + 0.5 * (IMAGES - mean))


def test_cutout_greys_a_quarter_at_most():
    whole = augment(torch.ones(1, 1, 8, 8), ("cutout",), torch.tensor([[0.5, 0.5, 0.0]]))
    assert int((whole == 0).sum()) == 16 and whole[0, 0, 2:6, 2:6].eq(0).all()
    corner = augment(torch.ones(1, 1, 8, 8), ("cutout",), torch.tensor([[0.0, 0.0, 0.0]]))
    assert int((corner == 0).sum()) == 4


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_image_does_not_depend_on_its_batch_and_passes_the_gradient(name):
    draws = uniform_for(range(3), DRAWS)
    images = IMAGES.clone().requires_grad_()
    together = augment(images, (name,), draws)
    alone = torch.cat([augment(IMAGES[i : i + 1], (name,), draws[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone)
    together.sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
