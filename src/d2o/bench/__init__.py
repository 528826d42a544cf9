"""How fast and how large things are on the machine at hand, side by side with doing them plainly."""
