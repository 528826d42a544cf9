"""Whether a model was made for images in one call, as far as its file tells, and what its user is told when not."""

from typing import Any

from d2o.diffusion.denoiser import Denoiser

BLURRED = (
    "As far as its file tells, this is a diffusion model of many steps: its images of one call are blurred. "
    "d2o finetune makes it a one-step generator"
)


def for_one_call(denoiser: Denoiser) -> bool:
    """Return whether a denoiser has a one-step generator's preconditioning, or a recipe with more than denoising.

    Both are kept in d2o's own files; consistency models and D2O's pickles have the former.
    """
    recipe: Any = denoiser.provenance.get("recipe")
    objectives = recipe.get("objectives") if isinstance(recipe, dict) else None
    kinds = [one.get("kind") for one in objectives if isinstance(one, dict)] if isinstance(objectives, list) else []
    return denoiser.preconditioning.kind == "boundary" or any(kind != "denoising" for kind in kinds)


def notice(denoiser: Denoiser, instead: str = "") -> str | None:
    """Return the sentence for somebody who asks a many-step model for images in one call; None for a generator.

    `instead` is what would give the model's own images there.
    """
    return None if for_one_call(denoiser) else f"{BLURRED}{f'; {instead}' if instead else ''}."
