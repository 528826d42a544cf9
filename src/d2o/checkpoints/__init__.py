"""Weights in and out, always as data."""

from d2o.errors import CheckpointError

from .inspection import inspect
from .loading import load
from .native import save

__all__ = ["CheckpointError", "inspect", "load", "save"]
