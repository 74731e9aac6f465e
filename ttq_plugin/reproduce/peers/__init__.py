"""Ternary methods and their rivals at equal bytes and equal training, on any task."""
