"""Tests of d2o.diffusion."""
