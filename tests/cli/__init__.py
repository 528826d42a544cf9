"""Tests of d2o.cli."""
