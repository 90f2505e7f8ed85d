"""Scheduled runs: one output folder, one run per date, one published latest report."""
