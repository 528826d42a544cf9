"""From a recipe to a trained network: recipes, freezing, averaging, the loop, and its directory on disk."""
