"""From a recipe to a trained network: presets, freezing, averaging, the loop, and its directory on disk."""
