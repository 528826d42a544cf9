"""Attention is softmax(q k / sqrt(c)) v over what may be seen, whichever of torch's kernels computes it."""

import pytest
import torch

from d2o.kernels.attention import attend


def plain(query, key, value, seen=None):
    logits = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    return (logits if seen is None else logits.masked_fill(~seen, -torch.inf)).softmax(3) @ value


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_those_of_the_formula(dtype, tolerance, masked):
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(2, 3, length, 8, generator=draw).to(dtype) for length in (5, 7, 7)]
    seen = torch.arange(7) < torch.tensor([4, 7]).view(2, 1, 1, 1) if masked else None
    found, wanted = ([row.clone().requires_grad_() for row in rows], [row.float().requires_grad_() for row in rows])
    image, truth = attend(*found, seen=seen), plain(*wanted, seen=seen)
    torch.testing.assert_close(image.float(), truth, rtol=tolerance, atol=tolerance)
    weights = torch.randn(truth.shape, generator=draw)
    (image.float() * weights).sum().backward()
    (truth * weights).sum().backward()
    for one, other in zip(found, wanted, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad.float(), other.grad, rtol=tolerance, atol=2 * tolerance)
