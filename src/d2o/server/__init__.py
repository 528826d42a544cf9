"""A model behind one HTTP endpoint: seeds and classes in, images out; requests that come together share a batch."""
