"""Tests of d2o.training."""
