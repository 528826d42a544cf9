"""How far fine-tuning moved the weights, by role and by block."""

from dataclasses import dataclass

import numpy as np

from d2o.devices import widen
from d2o.diffusion.denoiser import Denoiser
from d2o.training.freezing import roles_of

from .network import block_of, places

AUGMENTATION = "map_augment"
"""The layer that trajectory and reverse-consistency distillation widen, or add."""


@dataclass(frozen=True, eq=False)
class WeightChange:
    """The relative change of the parameters of one role in one block; each of the two may be "all"."""

    block: str
    role: str
    parameters: int
    relative: float


def check_alike(one: Denoiser, other: Denoiser, but: str = "") -> None:
    """Raise a ValueError unless the parameters have the same names and shapes, but for those of one layer."""
    shapes = [{(name, p.shape) for name, p in model.backbone.named_parameters()} for model in (one, other)]
    names = sorted({name for name, _ in shapes[0] ^ shapes[1] if not (but and name.startswith(f"{but}."))})
    if names:
        more = f"{names[0]} and {len(names) - 1} more parameters"
        raise ValueError(f"The two models differ in {more}: give a teacher and a student fine-tuned from it.")


def weight_changes(before: Denoiser, after: Denoiser) -> tuple[WeightChange, ...]:
    """Return the relative change of every role, block, and role in a block, over the weights that both models have."""
    check_alike(before, after, but=AUGMENTATION)
    roles, blocks = roles_of(before), places(before.backbone)
    changed = dict(after.backbone.named_parameters())
    sums: dict[tuple[str, str], np.ndarray] = {}
    for name, old in before.backbone.named_parameters():
        if name not in changed:
            continue
        common = tuple(slice(min(sides)) for sides in zip(old.shape, changed[name].shape, strict=True))
        old, new = widen(old.detach()[common]), widen(changed[name].detach()[common].to(old.device))
        row = np.array([float((new - old).square().sum()), float(old.square().sum()), old.numel()])
        block, role = block_of(name, blocks), roles[name]
        for key in ((block, role), (block, "all"), ("all", role), ("all", "all")):
            sums[key] = sums.get(key, 0) + row
    return tuple(
        WeightChange(block, role, int(count), float(np.sqrt(change / norm)) if norm else float("nan"))
        for (block, role), (change, norm, count) in sums.items()
    )
