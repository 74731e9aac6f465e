"""Attaches methods to the weight matrices of a model."""
