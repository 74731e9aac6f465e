"""Compares ternary methods with other methods at equal bytes and equal training, on any task."""
