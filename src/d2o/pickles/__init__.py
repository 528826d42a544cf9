"""Pickles read as data: a symbolic machine that imports nothing and calls nothing."""
