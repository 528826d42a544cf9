"""Losses and penalties of adversaries: closed forms, invariants and limits."""

import pytest
import torch

from d2o.objectives.gan import fool_loss, judge_loss, squared_difference, squared_gradient

A, B = [torch.tensor([[1.0, -2.0], [0.5, 3.0]])], [torch.tensor([[0.2, 0.1], [-1.0, 4.0]])]


def test_a_paired_loss_sees_differences_alone():
    real, fake = ([rows + 7 for rows in logits] for logits in (A, B))
    assert torch.allclose(judge_loss("relativistic", A, B), judge_loss("relativistic", real, fake))
    assert torch.allclose(fool_loss("relativistic", B, A), judge_loss("relativistic", B, A))
    assert torch.allclose(judge_loss("relativistic", A, A), torch.full((2,), 2.0).log())
    assert not torch.allclose(judge_loss("non-saturating", A, B), judge_loss("non-saturating", real, fake))


def test_centring_is_the_mean_square_of_the_sums():
    plain, centred = (judge_loss("relativistic", A, B, weight) for weight in (0.0, 0.01))
    assert torch.allclose(centred - plain, 0.01 * (A[0] + B[0]).square().mean(1), atol=1e-7)
    opposite = [-rows for rows in A]
    assert torch.equal(judge_loss("relativistic", A, opposite, 0.01), judge_loss("relativistic", A, opposite))


def judge(images):
    """Return logits at two places whose gradient differs from place to place."""
    flat = images.flatten(1)
    return [torch.stack([flat.square().sum(1) / 2, flat.sin().sum(1)], 1)]


def test_the_exact_penalty_is_the_gradient():
    images = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    flat = images.flatten(1)
    assert torch.allclose(squared_gradient(judge, images), (flat + flat.cos()).square().sum(1), rtol=1e-5)


def test_finite_differences_have_the_exact_penalty_as_their_limit():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    exact, flat = squared_gradient(judge, images), images.flatten(1)
    gradient = flat + flat.cos()
    noise = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    along = (gradient * noise.flatten(1)).sum(1).square()  # what is left for epsilon = 0
    errors = [(squared_difference(judge, images, noise, epsilon) - along).abs().max() for epsilon in (1e-2, 1e-4, 1e-6)]
    assert errors[0] > 50 * errors[1] > 50 * 50 * errors[2]
    many = torch.stack(
        [
            squared_difference(judge, images, torch.randn(images.shape, generator=generator).double())
            for _ in range(4000)
        ]
    )
    assert many.mean(0).tolist() == pytest.approx(exact.tolist(), rel=0.1)  # 4 standard errors are 9 %
