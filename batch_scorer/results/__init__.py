"""What a run leaves behind: rows, run.json, checkpoints, thumbnails."""
