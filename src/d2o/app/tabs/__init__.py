"""The tabs of the page, one a file: `build(choice)` adds what it shows and returns what it does for another model."""
