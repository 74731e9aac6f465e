"""Scores: a metric's formula, and what outputs and targets mean."""
