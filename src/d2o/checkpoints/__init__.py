"""Weights in and out, always as data."""

from .errors import CheckpointError
from .formats import load
from .inspection import inspect
from .native import save

__all__ = ["CheckpointError", "inspect", "load", "save"]
