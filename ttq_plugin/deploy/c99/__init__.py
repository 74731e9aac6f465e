"""A model as self-contained C99 source files."""
