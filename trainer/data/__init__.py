"""Images and labels: folders, splits, corruptions and the input pipeline."""
