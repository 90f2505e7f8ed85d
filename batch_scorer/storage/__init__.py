"""Files on disk, in buckets and behind URLs."""
