"""Weights in and out, always as data."""

from typing import TYPE_CHECKING, Any

from d2o.errors import CheckpointError

from .loading import load
from .native import save

if TYPE_CHECKING:
    from .inspection import inspect

__all__ = ["CheckpointError", "inspect", "load", "save"]


def __getattr__(name: str) -> Any:
    if name != "inspect":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .inspection import inspect

    return inspect
