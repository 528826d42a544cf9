"""Faster kernels, same results: frozen convolutions, normalisations and batch norms."""
