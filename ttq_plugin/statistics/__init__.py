"""Uncertainty of scores: intervals and tests over the groups (people, recordings) that samples come from."""

LEVEL = 0.95
"""Default confidence level of every interval."""
