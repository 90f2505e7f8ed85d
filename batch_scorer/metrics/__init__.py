"""Performance metrics with confidence intervals."""
