"""Weights in and out, always as data."""

from .errors import CheckpointError
from .native import load, save

__all__ = ["CheckpointError", "load", "save"]
