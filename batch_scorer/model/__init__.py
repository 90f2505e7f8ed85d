"""Model files: their card, their checks and their predictions."""
