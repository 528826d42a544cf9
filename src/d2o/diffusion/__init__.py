"""The mathematics of diffusion: noise, preconditioning, denoisers and samplers. Knows no network."""
