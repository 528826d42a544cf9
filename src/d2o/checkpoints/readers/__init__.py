"""Readers of foreign checkpoints: each turns one form of weights into a denoiser."""
