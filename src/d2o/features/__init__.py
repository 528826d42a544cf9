"""Frozen networks, trained by others, that look at images: their weights, pyramids of maps, and feature spaces."""
