"""The lowering of a model: layers with what follows them, as numbers."""
