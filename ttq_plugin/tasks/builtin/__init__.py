"""The built-in tasks, one module each, and their networks."""
