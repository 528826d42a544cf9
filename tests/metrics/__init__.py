"""Tests of d2o.metrics."""
