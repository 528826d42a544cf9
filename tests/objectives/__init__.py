"""Tests of d2o.objectives."""
