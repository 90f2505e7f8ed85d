"""The results of a run: rows, run.json, checkpoints, thumbnails."""
