"""Pictures of fronts, comparisons and measurements."""
