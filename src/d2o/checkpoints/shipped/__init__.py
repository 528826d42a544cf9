"""Models that come with d2o, their weights rounded to float16; README.md beside this file is their model card."""

from pathlib import Path

TEACHERS = {
    "emoji": "emoji-teacher",
    "digits-small": "digits-teacher",
    "cifar10-small": "cifar10-small-teacher",
    "shapes-small": "shapes-teacher",
}
"""One-step generator -> the diffusion model that it began as."""
SHIPPED = {name: f"{name}.safetensors" for pair in TEACHERS.items() for name in pair}
"""Name -> file in this folder."""


def find_shipped(name: str) -> Path:
    """Return the file of a model that comes with d2o; a ValueError for a name that is none."""
    if name not in SHIPPED:
        raise ValueError(f"d2o comes with no model {name!r}, only with {', '.join(SHIPPED)}.")
    return Path(__file__).parent / SHIPPED[name]
