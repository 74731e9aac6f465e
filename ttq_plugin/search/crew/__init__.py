"""The workers of a search: how they start, take trials, and end."""
