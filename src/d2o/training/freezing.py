"""Freezing by role: which parameters a recipe leaves alone. Every backbone says what role each of its own has."""

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from d2o.diffusion.denoiser import Denoiser

CONVOLUTIONS = ("convolution", "projection")
"""The roles that D2O-F freezes in the released code: both convolutions and the attention projection of every block."""


class Share(NamedTuple):
    """How many of a network's parameters do not move."""

    frozen: int
    total: int

    def __str__(self) -> str:
        return f"{self.frozen:,} of {self.total:,} parameters frozen ({self.frozen / self.total:.2%})"


def freeze(denoiser: Denoiser, roles: Collection[str]) -> Share:
    """Stop the gradients of all parameters with one of these roles, and let all others move.

    A role that no parameter has is a ValueError. A backbone without roles of its own has one: "parameter".
    """
    role_of = getattr(denoiser.backbone, "role", lambda _: "parameter")
    counts = Counter()
    for name, parameter in denoiser.backbone.named_parameters():
        role = role_of(name)
        counts[role] += parameter.numel()
        parameter.requires_grad_(role not in roles)
    for role in roles:
        if role not in counts:
            raise ValueError(f"Nothing in this network has the role {role!r} to freeze; it has {', '.join(counts)}.")
    if counts.keys() == set(roles):
        raise ValueError(f"All roles of this network are frozen ({', '.join(counts)}): leave one out of `frozen`.")
    return Share(sum(counts[role] for role in set(roles)), sum(counts.values()))
