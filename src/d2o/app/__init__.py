"""A page to play with: an image in one call while a slider moves, beside the teacher that needs many."""
