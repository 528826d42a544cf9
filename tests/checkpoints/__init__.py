"""Tests of d2o.checkpoints."""
