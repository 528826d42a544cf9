"""Weights in and out, always as data."""

from d2o.errors import CheckpointError
from d2o.export import export

from .formats import load
from .inspection import inspect
from .native import save

__all__ = ["CheckpointError", "export", "inspect", "load", "save"]
