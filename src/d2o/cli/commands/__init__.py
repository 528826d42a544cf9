"""The commands of d2o, a module each."""
