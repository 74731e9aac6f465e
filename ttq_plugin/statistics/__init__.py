"""Uncertainty of scores: intervals and tests over the groups (people, recordings) that samples come from."""

LEVEL = 0.95
"""Confidence level of every interval, unless another one is asked for."""
