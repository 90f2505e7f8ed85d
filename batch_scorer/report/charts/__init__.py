"""Numbers to SVG."""
