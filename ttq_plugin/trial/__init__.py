"""One compression, from settings to result."""
