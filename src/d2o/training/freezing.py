"""Freezing by role, name, block or resolution; every backbone knows the roles of its parameters."""

import re
from collections import Counter
from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from d2o.backbones.backbone import Backbone
from d2o.diffusion.denoiser import Denoiser

CONVOLUTIONS = ("convolution", "projection")
"""The roles that D2O-F freezes in the released code: both convolutions and the attention projection of every block.

84.40 % of CIFAR-10's NCSN++.
"""
CONVOLUTIONS_AND_QKV = ("convolution", "qkv")
"""85.80 % of CIFAR-10's NCSN++: the share that the paper names."""
PROJECTIONS_AND_QKV = (*CONVOLUTIONS, "qkv")
"""The released code's second level, 86.50 %."""
CONVOLUTIONS_QKV_SKIPS = (*PROJECTIONS_AND_QKV, "skip")
"""The released code's third level, 90.46 %."""
ALL_BUT_NORMS = ("all-but:name:*norm*",)
"""Only the norms' scales and shifts move, those of the output layer included."""

# Of a transformer, with the shares of DiT-XL/2. Its biases have a role of their own, and so always move.
QUERIES_MOVE = ("projection", "mlp", "modulation")
"""82.6 %: what makes queries, keys and values moves, as in a U-Net under D2O-F."""
MODULATION_MOVES = ("qkv", "projection", "mlp")
"""66.1 %: attention and MLP are frozen; the adaptive norms, a third of the network, move."""
BIASES_MOVE = ("qkv", "projection", "mlp", "modulation")
"""99.1 %: every matrix of every block is frozen."""
WORDS_STAY = (*QUERIES_MOVE, "text")
"""Of a network that brings an encoder of captions along, that as well."""
OWN_RULES: dict[str, tuple[str, ...]] = {
    "dit": QUERIES_MOVE,
    "text_transformer": WORDS_STAY,
    "text_to_image": ("convolution", *QUERIES_MOVE),
}
"""What D2O-F freezes, by the kind of the backbone, where that is not CONVOLUTIONS; roles that it lacks are left out.

86.0 % of Stable Diffusion 1.5, 69.3 % of SDXL, 82.3 % of Stable Diffusion 3, 81.4 % of Flux, 59.6 % of Sana.
"""
MOST = 12
"""How many alternatives an error names."""


class Share(NamedTuple):
    """How many of a network's parameters are frozen."""

    frozen: int
    total: int

    def __str__(self) -> str:
        return f"{self.frozen:,} of {self.total:,} parameters frozen ({self.frozen / self.total:.2%})"


def count_frozen(network: nn.Module) -> Share:
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return Share(sum(size for size, moves in sizes if not moves), sum(size for size, _ in sizes))


def settle_frozen(frozen: tuple[str, ...], denoiser: Denoiser) -> tuple[str, ...]:
    """Return the rules of a recipe for this network: in one that reads text, CONVOLUTIONS mean all that D2O-F freezes.

    The roles by other patterns, such as "conv*" and "projection", mean themselves.
    """
    is_own = getattr(denoiser.backbone, "kind", "") == "text_to_image"
    return default_rules(denoiser) if is_own and frozen == CONVOLUTIONS else frozen


def measure_shares(denoiser: Denoiser) -> dict[str, float]:
    """Return the share of a network's parameters that each role has, largest first."""
    roles, counts = roles_of(denoiser), Counter[str]()
    for name, parameter in denoiser.backbone.named_parameters():
        counts[roles[name]] += parameter.numel()
    return {role: count / counts.total() for role, count in counts.most_common()}


def default_rules(denoiser: Denoiser) -> tuple[str, ...]:
    """Return the rules by which D2O-F freezes a denoiser of this kind."""
    rules = OWN_RULES.get(getattr(denoiser.backbone, "kind", ""))
    return CONVOLUTIONS if rules is None else tuple(rule for rule in rules if rule in measure_shares(denoiser))


def fitting_rules(denoiser: Denoiser) -> tuple[str, ...]:
    """Return those of the rules that match something, also in a network of the user's own: perhaps none."""
    roles = roles_of(denoiser).values()
    return tuple(rule for rule in default_rules(denoiser) if rule in roles)


def roles_of(denoiser: Denoiser) -> dict[str, str]:
    """Return the role of every parameter by name; all are "parameter" in a network that is no `Backbone`."""
    backbone = denoiser.backbone
    role = backbone.role if isinstance(backbone, Backbone) else lambda _: "parameter"
    return {name: role(name) for name, _ in backbone.named_parameters()}


def freeze(denoiser: Denoiser, rules: Collection[str]) -> Share:
    """Stop the gradients of all parameters that one of the rules matches, and let all others move.

    A rule is a role (`convolution`), or `name:PATTERN`, `block:PATTERN` (of the names before the layer, such as
    enc.32x32_block0), `resolution:SIDE`, each with * and ? as in file names, or `all-but:RULE`. One that matches
    nothing is a ValueError. A backbone without roles of its own has one: "parameter".
    """
    traits = {name: Traits.of(name, role) for name, role in roles_of(denoiser).items()}
    matched = {name for rule in rules for name in matches(rule, traits)}
    if matched and len(matched) == len(traits):
        roles = ", ".join(dict.fromkeys(row.role for row in traits.values()))
        raise ValueError(f"All parameters of this network are frozen ({roles}): leave one out of `frozen`.")
    for name, parameter in denoiser.backbone.named_parameters():
        parameter.requires_grad_(name not in matched)
    return count_frozen(denoiser.backbone)


class Traits(NamedTuple):
    """What rules can say about a parameter."""

    role: str
    name: str
    block: str
    resolution: str

    @classmethod
    def of(cls, name: str, role: str) -> "Traits":
        """Read a parameter's block, the first two parts of its name, and the resolution in it, as in 32x32."""
        parts = name.split(".")
        side = re.match(r"(\d+)x\1(_|$)", parts[1]) if len(parts) > 1 else None
        return cls(role, name, ".".join(parts[:2]) if len(parts) > 2 else "", side[1] if side else "")


def matches(rule: str, traits: dict[str, Traits]) -> set[str]:
    """Return the names of the parameters that one rule of the grammar matches; none is a ValueError."""
    trait, colon, pattern = rule.partition(":")
    if not colon:
        trait, pattern = "role", rule
    if trait == "all-but":
        found = traits.keys() - matches(pattern, traits)
    elif trait in Traits._fields:
        found = {name for name, row in traits.items() if fnmatchcase(getattr(row, trait), pattern) and pattern}
    else:
        kinds = ", ".join(f"{kind}:" for kind in (*Traits._fields, "all-but"))
        raise ValueError(f"There is no rule {rule!r} for `frozen`: write a role, or start with one of {kinds}.")
    if not found and trait == "all-but":
        raise ValueError(f"The rule {rule!r} freezes nothing: {pattern} is the whole network.")
    if not found:
        known = [word for word in dict.fromkeys(getattr(row, trait) for row in traits.values()) if word]
        shown = ", ".join(known[:MOST]) + (f" and {len(known) - MOST} more" if len(known) > MOST else "")
        hint = "; for transformers use the recipe dit-d2o-f" if "modulation" in known else ""
        words = "the role" if trait == "role" else f"a {trait}"
        raise ValueError(f"Nothing in this network has {words} {pattern!r} to freeze; it has {shown or 'none'}{hint}.")
    return found
