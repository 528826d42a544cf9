"""Freezing by role: which parameters a recipe leaves alone. Every backbone says what role each of its own has."""

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from d2o.diffusion.denoiser import Denoiser

CONVOLUTIONS = ("convolution", "projection")
"""The roles that D2O-F freezes in the released code: both convolutions and the attention projection of every block."""

# Of a transformer, with the shares of DiT-XL/2. Its biases have a role of their own, and so always move.
QUERIES_MOVE = ("projection", "mlp", "modulation")
"""82.6 %: what makes queries, keys and values moves, as in a U-Net under D2O-F."""
MODULATION_MOVES = ("qkv", "projection", "mlp")
"""66.1 %: attention and MLP are frozen; the adaptive norms, a third of the network, move."""
BIASES_MOVE = ("qkv", "projection", "mlp", "modulation")
"""99.1 %: every matrix of every block is frozen."""
OTHERS: dict[str, tuple[str, ...]] = {"dit": QUERIES_MOVE}
"""What D2O-F freezes in backbones that have no convolutions, by kind."""


class Share(NamedTuple):
    """How many of a network's parameters do not move."""

    frozen: int
    total: int

    def __str__(self) -> str:
        return f"{self.frozen:,} of {self.total:,} parameters frozen ({self.frozen / self.total:.2%})"


def d2o_f(denoiser: Denoiser) -> tuple[str, ...]:
    """Return the roles that D2O-F freezes in a denoiser of this kind."""
    return OTHERS.get(getattr(denoiser.backbone, "kind", ""), CONVOLUTIONS)


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
            hint = "; for transformers there is the recipe dit-d2o-f" if "modulation" in counts else ""
            known = ", ".join(counts)
            raise ValueError(f"Nothing in this network has the role {role!r} to freeze; it has {known}{hint}.")
    if counts.keys() == set(roles):
        raise ValueError(f"All roles of this network are frozen ({', '.join(counts)}): leave one out of `frozen`.")
    return Share(sum(counts[role] for role in set(roles)), sum(counts.values()))
