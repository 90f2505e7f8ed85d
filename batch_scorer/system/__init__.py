"""The process and its machine: deadlines, memory, logs, local files."""
