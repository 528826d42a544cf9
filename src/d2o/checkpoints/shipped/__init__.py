"""Models that come with d2o: what `d2o demo --seed 0` made, its weights rounded to float16."""

from pathlib import Path

SHIPPED = {"digits-small": "digits-small.safetensors", "digits-teacher": "digits-teacher.safetensors"}
"""Name -> file in this folder."""
TEACHERS = {"digits-small": "digits-teacher"}
"""One-step generator -> the diffusion model that it began as."""


def shipped(name: str) -> Path:
    """Return the file of a model that comes with d2o; a ValueError for a name that is none."""
    if name not in SHIPPED:
        raise ValueError(f"No model {name!r} comes with d2o; there are {', '.join(SHIPPED)}.")
    return Path(__file__).parent / SHIPPED[name]
