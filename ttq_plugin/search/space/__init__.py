"""Search spaces: methods, parameter ranges and objectives."""
