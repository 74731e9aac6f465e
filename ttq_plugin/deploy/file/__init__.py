"""Packed files: compressed models in as few bytes as their ternary weights need."""
