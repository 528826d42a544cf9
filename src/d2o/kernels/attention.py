"""Attention, by the faster of torch's ways."""

from contextlib import nullcontext

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return what queries [N, heads, Q, C] find among keys and values [N, heads, K, C], where `seen` allows it.

    In half precision on CPUs the backward pass of torch's fused kernel takes many times as long as plain products.
    """
    slow = query.device.type == "cpu" and query.element_size() == 2 and query.requires_grad
    with sdpa_kernel(SDPBackend.MATH) if slow else nullcontext():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
