"""Search spaces: what is searched, in which ranges and for which objectives."""
