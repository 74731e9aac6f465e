"""Utilities for all parts of the package: files, names, limits, processes and progress; no framework."""
