"""See why it works: spectra of trajectories and blocks, teachers beside students, and interventions that test it."""
