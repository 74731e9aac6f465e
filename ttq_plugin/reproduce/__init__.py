"""Reproduces the papers' tables: cells (one repetition of one row), a runner that resumes, and reports."""
