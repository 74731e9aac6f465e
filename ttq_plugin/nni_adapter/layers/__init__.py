"""Layers as NNI sees them: their names, which of them it can wrap, and what wraps the others."""
