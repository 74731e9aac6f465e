"""Checks of a task before anything is trained."""
