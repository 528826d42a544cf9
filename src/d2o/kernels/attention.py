"""Attention, by the faster of torch's ways."""

from contextlib import nullcontext

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

NARROW = 32
"""Channels of a head up to which torch's fused kernel is slow on CPUs in half precision."""


def attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return what queries [N, heads, Q, C] find among keys and values [N, heads, K, C], where `seen` allows it.

    A `seen` of numbers, not of truths, is added to the products of queries and keys.

    With narrow heads, in half precision on CPUs, plain products with their gradients take half the time of the fused
    kernel.
    """
    slow = query.device.type == "cpu" and query.element_size() == 2 and query.shape[3] <= NARROW and query.requires_grad
    with sdpa_kernel(SDPBackend.MATH) if slow else nullcontext():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
