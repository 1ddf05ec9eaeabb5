"""Opening a model by name or path, and a text as its tokens."""
