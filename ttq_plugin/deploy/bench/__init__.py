"""Measured costs of a compressed model: time, memory, bytes and energy."""
