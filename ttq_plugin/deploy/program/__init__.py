"""Lowers a model to typed steps, with fusion, shapes and layouts, independent of the C code."""
