"""Packed files: compressed models in the bytes that their ternary weights are worth."""
