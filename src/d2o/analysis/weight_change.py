"""How far fine-tuning moved the weights, by role and by block."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2o.diffusion.denoiser import Denoiser

from .findings import Table
from .network import block_of, places

AUGMENTATION = "map_augment"
"""The layer of augmentation labels, which trajectory and reverse-consistency distillation widen, or add."""


@dataclass(frozen=True, eq=False)
class WeightChange:
    """How far fine-tuning moved the parameters of one role in one block (each may be "all"), relative to their norm."""

    block: str
    role: str
    parameters: int
    relative: float


def differing(one: Denoiser, other: Denoiser) -> list[str]:
    """Return the names of parameters that two denoisers do not have alike, by name and shape."""
    shapes = [{name: p.shape for name, p in model.backbone.named_parameters()} for model in (one, other)]
    return sorted(name for name in {*shapes[0], *shapes[1]} if shapes[0].get(name) != shapes[1].get(name))


def check_alike(one: Denoiser, other: Denoiser, but: str | None = None) -> None:
    """Raise a ValueError unless two denoisers have the same parameters, by name and shape, but for those of a layer."""
    names = [name for name in differing(one, other) if but is None or not name.startswith(f"{but}.")]
    if names:
        raise ValueError(
            f"The two models are not of one architecture: they differ in {names[0]} and {len(names) - 1} more "
            "parameters; give a teacher and a student that was fine-tuned from it."
        )


def weight_changes(before: Denoiser, after: Denoiser) -> tuple[WeightChange, ...]:
    """Return the relative change of every role, every block and every role in every block.

    Fine-tuning may add augmentation labels: of their layer only the weights that both models have are compared.
    """
    check_alike(before, after, but=AUGMENTATION)
    role_of = getattr(before.backbone, "role", lambda _: "parameter")
    known = places(before.backbone)
    sums: dict[tuple[str, str], np.ndarray] = {}
    changed = dict(after.backbone.named_parameters())
    for name, old in before.backbone.named_parameters():
        if name not in changed:
            continue
        common = tuple(slice(min(sides)) for sides in zip(old.shape, changed[name].shape, strict=True))
        old, new = old.detach()[common].double(), changed[name].detach()[common].double().to(old.device)
        row = np.array([float((new - old).square().sum()), float(old.square().sum()), old.numel()])
        block, role = block_of(name, known), role_of(name)
        for key in ((block, role), (block, "all"), ("all", role), ("all", "all")):
            sums[key] = sums.get(key, 0) + row
    return tuple(
        WeightChange(block, role, int(count), float(np.sqrt(moved / norm)) if norm else float("nan"))
        for (block, role), (moved, norm, count) in sums.items()
    )


def news(before: Denoiser, after: Denoiser) -> list[str]:
    """Return a sentence for each parameter that fine-tuning widened or added."""
    sizes = [{name: p.numel() for name, p in model.backbone.named_parameters()} for model in (before, after)]
    grown = [(name, sizes[1].get(name, 0) - sizes[0].get(name, 0)) for name in differing(before, after)]
    return [
        f"New after fine-tuning, and left out of the weight changes: {more:,} weights of {name}."
        for name, more in grown
        if more > 0
    ]


def sentence(changes: Sequence[WeightChange]) -> str:
    """Return which roles moved most and which not at all, and the block that moved most."""
    moved = [row for row in changes if row.block == "all" and row.role != "all"]
    blocks = [row for row in changes if row.block not in ("all", "elsewhere") and row.role == "all"]
    still = [row.role for row in moved if row.relative == 0]
    most = max(moved, key=lambda row: np.nan_to_num(row.relative))
    frozen = f"did not move: {', '.join(still)}" if still else "all roles moved"
    told = f"Weights: {frozen}; of the roles {most.role} moved most, by {most.relative:.1%} of its norm"
    if blocks:
        block = max(blocks, key=lambda row: np.nan_to_num(row.relative))
        told += f", and of the blocks {block.block}, by {block.relative:.1%}"
    return f"{told}."


def table(changes: Sequence[WeightChange]) -> Table:
    """Return the table of relative weight changes, blocks by roles."""
    cells = {(row.block, row.role): row.relative for row in changes}
    roles = list(dict.fromkeys(row.role for row in changes))
    names = list(dict.fromkeys(row.block for row in changes))
    order = [name for name in names if name != "all"] + ["all"]
    columns = [role for role in roles if role != "all"] + ["all"]
    rows = [
        (name, *(f"{cells[name, role]:.1%}" if (name, role) in cells else None for role in columns)) for name in order
    ]
    return Table("Relative weight change by block and role", ("block", *columns), rows)
