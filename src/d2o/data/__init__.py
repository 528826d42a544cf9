"""Pixels in, pixels out: data sets as a stream of batches, image files, and augmentation."""
