"""Score images with loaded models, in this process or on a Ray cluster."""
