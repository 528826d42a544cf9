"""The page: what it draws, what it lets in, and what a browser shows of it."""
