"""Performance measures, with confidence intervals."""
