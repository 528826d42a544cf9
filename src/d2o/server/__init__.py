"""One HTTP server: images by seed and class in shared batches, and the page to play with, beside the teacher."""
