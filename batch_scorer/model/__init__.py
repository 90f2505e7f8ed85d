"""Model files: model cards, checks and predictions."""
